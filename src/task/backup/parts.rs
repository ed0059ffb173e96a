//! Which tables go together. Pure.

/// A table that has rows to back up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// With its schema, as SQL has it: quoted where it must be.
    pub quoted: String,
    /// Those that are stored, quoted: what is generated is made again.
    pub columns: Vec<String>,
    /// Its heap and its TOAST, in bytes: about what has to be read.
    pub bytes: i64,
}

/// Tables that go into one stream, never none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its file in the snapshot.
    pub file: String,
    pub tables: Vec<Table>,
}

/// What the names of streams end with that are compressed before restic sees them: since the third format.
const ZSTD: &str = ".zst";

/// Whether a file of a backup is a stream of rows.
pub fn is_rows(file: &str) -> bool {
    file.strip_suffix(ZSTD).unwrap_or(file).ends_with(".sql")
}

/// Whether a file of a backup is a schema.
pub fn is_schema(file: &str) -> bool {
    file.ends_with(".dump")
}

/// Whether what is in it is compressed by zstd.
pub fn is_compressed(file: &str) -> bool {
    file.ends_with(ZSTD)
}

/// Deals the tables out: the largest first, each to the part that has least. The parts are about equally large then, and
/// the largest part comes first, so that none is left alone at the end for long.
pub fn deal(mut tables: Vec<Table>, count: usize) -> Vec<Part> {
    tables.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.quoted.cmp(&b.quoted)));
    let mut hands: Vec<(i64, Vec<Table>)> = vec![(0, Vec::new()); count.min(tables.len())];
    for table in tables {
        let least = hands.iter_mut().min_by_key(|(bytes, tables)| (*bytes, tables.len())).expect("at least one");
        least.0 += table.bytes;
        least.1.push(table);
    }
    hands.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let file = |index: usize| format!("data-{}.sql{ZSTD}", index + 1);
    hands.into_iter().enumerate().map(|(index, (_, tables))| Part { file: file(index), tables }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, bytes: i64) -> Table {
        Table { quoted: name.to_owned(), columns: Vec::new(), bytes }
    }

    fn names(part: &Part) -> Vec<&str> {
        part.tables.iter().map(|table| table.quoted.as_str()).collect()
    }

    #[test]
    fn parts_are_about_equally_large_and_the_largest_is_first() {
        let tables = vec![table("a", 10), table("b", 70), table("c", 30), table("d", 25), table("e", 5)];
        let parts = deal(tables, 2);
        assert_eq!(parts.iter().map(names).collect::<Vec<_>>(), [vec!["b"], vec!["c", "d", "a", "e"]]);
        assert_eq!((parts[0].file.as_str(), parts[1].file.as_str()), ("data-1.sql.zst", "data-2.sql.zst"));
    }

    #[test]
    fn empty_tables_are_spread_too_and_no_part_is_empty() {
        let parts = deal(vec![table("a", 0), table("b", 0), table("c", 0)], 8);
        assert_eq!(parts.iter().map(|part| part.tables.len()).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(deal(Vec::new(), 4), []);
    }
}
