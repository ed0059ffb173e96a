//! What `psql` is told to read, and what is written around it. Pure.

use super::super::parts::{Part, Table};
use crate::quote;

/// The line behind the rows of a table. No row looks like it: `COPY` writes a backslash as two.
pub const END_OF_ROWS: &str = "\\.";

/// What comes back is what was there, bit by bit, and always in the same order. What every session sets is set
/// ([`crate::postgres::settings`]).
const SETTINGS: &str = "SET synchronize_seqscans = off; SET search_path = ''; SET lock_timeout = '10s';\n";

/// The first lines of what is stored.
pub const PRELUDE: &str = "\
    SET statement_timeout = 0;\nSET lock_timeout = 0;\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n\
    SET row_security = off;\nSELECT pg_catalog.set_config('search_path', '', false);\n";

/// The script for `psql`: each table's rows, each row behind the number of its transaction, and a line behind each table. Then
/// the statements that set the sequences: they know no snapshot, and stand last.
pub fn script(part: &Part, sequences: &[String], snapshot: &str) -> String {
    let mut script = String::from(SETTINGS);
    script += "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n";
    script += &format!("SET TRANSACTION SNAPSHOT {};\n", quote::literal(snapshot));
    for table in &part.tables {
        script += &copy_to(table);
    }
    for sequence in sequences {
        script += &format!(
            "SELECT format('SELECT pg_catalog.setval(%L, %s, %L);', {}, last_value, is_called) FROM {sequence};\n",
            quote::literal(sequence)
        );
    }
    script
}

fn copy_to(Table { quoted, columns, .. }: &Table) -> String {
    let columns: String = columns.iter().flat_map(|column| [", ", column]).collect();
    format!("COPY (SELECT xmin{columns} FROM ONLY {quoted}) TO STDOUT;\n\\echo '\\\\.'\n")
}

/// The lines of a script before the first table.
const HEAD: usize = 3;

/// The table that a line of the script is about, counted from 1.
pub fn table_at(part: &Part, line: usize) -> Option<&Table> {
    let mut last = HEAD;
    part.tables.iter().find(|table| {
        let begins_behind = last;
        // A name may have a line break.
        last += copy_to(table).matches('\n').count();
        (begins_behind + 1..=last).contains(&line)
    })
}

/// The line before the rows of a table.
pub fn copy_from(Table { quoted, columns, .. }: &Table) -> String {
    let columns = if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
    format!("COPY {quoted}{columns} FROM stdin;\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_asked_for_with_its_columns_and_no_other() {
        let table = |name: &str, columns: &[&str]| Table {
            quoted: format!("public.{name}"),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            bytes: 1,
        };
        let part = Part { file: String::new(), tables: vec![table("a", &["id", "\"Body\""]), table("b", &[])] };
        let said = script(&part, &["\"public\".\"s\"".to_owned()], "00000003-1");
        let statements: Vec<&str> = said.lines().skip(1).collect();
        assert_eq!(
            statements,
            [
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;",
                "SET TRANSACTION SNAPSHOT '00000003-1';",
                "COPY (SELECT xmin, id, \"Body\" FROM ONLY public.a) TO STDOUT;",
                "\\echo '\\\\.'",
                "COPY (SELECT xmin FROM ONLY public.b) TO STDOUT;",
                "\\echo '\\\\.'",
                "SELECT format('SELECT pg_catalog.setval(%L, %s, %L);', '\"public\".\"s\"', last_value, is_called) \
                 FROM \"public\".\"s\";",
            ]
        );
        let at = |line| table_at(&part, line).map(|table| table.quoted.as_str());
        assert_eq!(
            [3, 4, 5, 6, 7, 8].map(at),
            [None, Some("public.a"), Some("public.a"), Some("public.b"), Some("public.b"), None]
        );
        assert_eq!(copy_from(&part.tables[0]), "COPY public.a (id, \"Body\") FROM stdin;\n");
        assert_eq!(copy_from(&part.tables[1]), "COPY public.b FROM stdin;\n");
    }
}
