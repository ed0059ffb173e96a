//! Counts and moments in messages: the same everywhere.

use std::fmt::Display;

use jiff::Timestamp;

/// `1 table`, `3 tables`.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, one: &str, many: &str) -> String {
    let noun = if count == N::from(1) { one } else { many };
    format!("{count} {noun}")
}

/// `1 table is`, `3 tables are`, for what follows.
pub fn counted_are<N: Display + PartialEq + From<u8>>(count: N, one: &str, many: &str) -> String {
    counted(count, &format!("{one} is"), &format!("{many} are"))
}

/// `3 rows of 2 tables`.
pub fn rows_of<R, T>(rows: R, tables: T) -> String
where
    R: Display + PartialEq + From<u8>,
    T: Display + PartialEq + From<u8>,
{
    format!("{} of {}", counted(rows, "row", "rows"), counted(tables, "table", "tables"))
}

/// A moment for people: whole seconds, UTC, such as `2026-11-22T20:02:04Z`.
pub fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_something_is_no_plural() {
        let counted = |count: usize| counted(count, "table", "tables");
        assert_eq!([counted(0), counted(1), counted(2)], ["0 tables", "1 table", "2 tables"]);
        assert_eq!(
            [counted_are(1_i64, "table", "tables"), counted_are(2_i64, "table", "tables")],
            ["1 table is", "2 tables are"]
        );
    }

    #[test]
    fn a_moment_has_whole_seconds() {
        assert_eq!(moment("2026-11-22T20:02:04.620789138Z".parse().unwrap()), "2026-11-22T20:02:04Z");
        assert_eq!(moment("2026-11-22T21:02:04+01:00".parse().unwrap()), "2026-11-22T20:02:04Z");
    }
}
