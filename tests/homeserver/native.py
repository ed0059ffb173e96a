#!/usr/bin/env python3
"""The demo homeserver without a cluster: a private PostgreSQL on a unix socket and Synapse on loopback.

    VENV/bin/python native.py start DIR [--restore FILE.dump] [--durable]
    VENV/bin/python native.py stop DIR

`start` leaves both running and prints where they are as JSON; `stop` ends just these two.
Runs in a virtual environment with the pinned requirements (tests/homeserver/fixture makes one), as
any user; root hands PostgreSQL over to the user `postgres`. DIR must not exist yet, or hold what an
earlier start left. Synapse's configuration is the one of the manifests, with other addresses.
"""

import argparse
import glob
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import yaml

HERE = pathlib.Path(__file__).resolve().parent


def fail(message, log=None):
    if log and log.exists():
        sys.stderr.write(log.read_text(errors="replace")[-3000:])
    sys.exit(f"native.py: {message}")


class Native:
    def __init__(self, directory):
        self.dir = pathlib.Path(directory).resolve()
        self.pg = self.dir / "postgres"
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
        self.bin = pathlib.Path(os.environ.get("PG_BIN") or (found[-1] if found else "/usr/bin"))
        self.pidfile = self.dir / "synapse.pid"

    def postgres_tool(self, *command):
        """PostgreSQL's server programs refuse to run as root."""
        command = [str(self.bin / command[0]), *map(str, command[1:])]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        # Not a pipe: the server that pg_ctl starts would keep it open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/")
            if done.returncode:
                output.seek(0)
                fail(f"{' '.join(command)}: {output.read().strip()}", self.pg / "server.log")

    def sql(self, statement, database="postgres"):
        self.postgres_tool("psql", "-XqAtv", "ON_ERROR_STOP=1", "-h", self.pg, "-U", "postgres", "-d", database, "-c", statement)

    def start_postgres(self, dump, durable):
        fresh = not (self.pg / "data").exists()
        if fresh:
            self.pg.mkdir(parents=True)
            if os.geteuid() == 0:
                shutil.chown(self.pg, "postgres", "postgres")
            self.postgres_tool("initdb", "-D", self.pg / "data", "-U", "postgres", "-A", "trust", "--no-sync",
                               "--encoding=UTF8", "--locale=C")
        settings = f"-c listen_addresses= -c unix_socket_directories={self.pg} -c shared_buffers=256MB" \
                   " -c maintenance_work_mem=256MB -c max_wal_size=2GB"
        if not durable:
            settings += " -c fsync=off -c full_page_writes=off -c synchronous_commit=off"
        self.postgres_tool("pg_ctl", "start", "-w", "-s", "-D", self.pg / "data", "-l", self.pg / "server.log", "-o", settings)
        if fresh:
            self.sql("CREATE ROLE synapse LOGIN")
            self.sql("CREATE ROLE keeper_admin LOGIN CREATEDB IN ROLE synapse")
            self.sql("CREATE DATABASE synapse OWNER synapse TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
            if dump:
                # As root, the dump may lie where `postgres` cannot read it.
                with open(dump, "rb") as file:
                    subprocess.run([self.bin / "pg_restore", "-h", self.pg, "-U", "synapse", "-d", "synapse", "--no-owner"],
                                   stdin=file, check=True)
                self.sql("ANALYZE", "synapse")
        return fresh

    def start_synapse(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        secrets = {}
        for name in ("synapse-config.yaml", "secrets.yaml"):
            for item in yaml.safe_load_all((HERE / "manifests" / name).read_text()):
                secrets[item["metadata"]["name"]] = item["stringData"]
        config = yaml.safe_load(secrets["synapse-config"]["homeserver.yaml"])
        for clustered in ("redis", "instance_map", "worker_replication_secret"):
            config.pop(clustered)
        config["database"]["args"] |= {"host": str(self.pg), "password": ""}
        config |= {
            "listeners": [{"port": port, "type": "http", "bind_addresses": ["127.0.0.1"],
                           "resources": [{"names": ["client"]}]}],
            "public_baseurl": f"http://127.0.0.1:{port}/",
            "signing_key_path": str(self.dir / "signing.key"),
            "media_store_path": str(self.dir / "media_store"),
            "log_config": str(self.dir / "log.yaml"),
        }
        (self.dir / "signing.key").write_text(secrets["synapse-signing-key"]["signing.key"])
        (self.dir / "log.yaml").write_text(secrets["synapse-config"]["log.yaml"])
        (self.dir / "homeserver.yaml").write_text(yaml.safe_dump(config))
        log = self.dir / "synapse.log"
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "synapse.app.homeserver", "-c", "homeserver.yaml"], cwd=self.dir,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )
        self.pidfile.write_text(str(process.pid))
        deadline = time.monotonic() + 180
        while True:
            if process.poll() is not None:
                self.pidfile.unlink()
                fail(f"Synapse ended with code {process.returncode}", log)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                if time.monotonic() > deadline:
                    fail("Synapse does not answer", log)
                time.sleep(0.1)
        return f"http://127.0.0.1:{port}", secrets["synapse-registration"]["shared-secret"]

    def start(self, dump, durable):
        self.dir.mkdir(parents=True, exist_ok=True)
        self.start_postgres(dump, durable)
        url, secret = self.start_synapse()
        print(json.dumps({"url": url, "registrationSharedSecret": secret, "postgresHost": str(self.pg),
                          "postgresBin": str(self.bin), "mediaStore": str(self.dir / "media_store")}))

    def stop_synapse(self):
        if not self.pidfile.exists():
            return
        pid = int(self.pidfile.read_text())
        # A pid is reused in time: it is ours only while it runs in our directory.
        try:
            if os.readlink(f"/proc/{pid}/cwd") == str(self.dir):
                os.kill(pid, signal.SIGTERM)
                for _ in range(300):
                    if pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                        break
                    time.sleep(0.1)
                else:
                    os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
        self.pidfile.unlink()

    def stop(self):
        self.stop_synapse()
        if (self.pg / "data" / "postmaster.pid").exists():
            self.postgres_tool("pg_ctl", "stop", "-w", "-s", "-m", "fast", "-D", self.pg / "data")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("start", "stop", "stop-synapse", "start-synapse"))
    parser.add_argument("directory")
    parser.add_argument("--restore", metavar="DUMP", help="fill the new database with this custom-format dump")
    parser.add_argument("--durable", action="store_true", help="fsync and WAL as on a real server")
    options = parser.parse_args()
    native = Native(options.directory)
    if options.action == "start":
        native.start(options.restore, options.durable)
    elif options.action == "start-synapse":
        print(native.start_synapse()[0])
    elif options.action == "stop-synapse":
        native.stop_synapse()
    else:
        native.stop()


if __name__ == "__main__":
    main()
