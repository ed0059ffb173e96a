#!/usr/bin/env python3
"""Writes src/synapse/tables.txt: every table that Synapse has ever made, by the files of its schema.

    hack/synapse-tables.py <a Python that has Synapse>/site-packages/synapse/storage/schema >src/synapse/tables.txt
"""

import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
version = re.search(r"^SCHEMA_VERSION = (\d+)", (root / "__init__.py").read_text(), re.M)[1]
made = re.compile(r'CREATE\s+(?:UNLOGGED\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?"?(\w+)|RENAME TO "?(\w+)', re.I)
# synapse_port_db makes it.
tables = {"port_from_sqlite3"}
for path in root.rglob("*"):
    if path.suffix in {".sql", ".postgres", ".py"}:
        tables |= {(new or renamed).lower() for new, renamed in made.findall(path.read_text())}
print(f"# Schema {version} of Synapse, by hack/synapse-tables.py: every table that it or an older one has made.")
print("\n".join(sorted(tables)))
