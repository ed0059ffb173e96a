//! Reads what `psql` writes, counts the rows, and gives on what is stored.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use super::{
    frames::{Frames, Place},
    order::{Age, Order},
    query::{END_OF_ROWS, PRELUDE, copy_from},
};
use crate::task::backup::parts::{Part, Table};

/// Rows by table, as SQL has the tables.
pub type Counted = BTreeMap<String, u64>;

/// As much is read at once, in bytes.
const READ: usize = 256 << 10;

/// A longer row is not held whole, in bytes. Users can make rows of 46 MB: Synapse takes requests of 13 MB, and writes some
/// characters of four bytes as fourteen.
const LONG: usize = 1 << 20;

/// As much waits for the end of the stream, in bytes.
const WAITING: usize = 16 << 20;

/// What is read.
pub struct Source {
    pub part: Part,
    /// The number that the next transaction had when the snapshot was taken, without its epoch.
    pub next_transaction: u32,
    /// With which `psql` is told to take no commands of its own (`\!`) out of what is stored, whatever the database's server has
    /// smuggled in: a word that the server does not know (CVE-2025-8714).
    pub word: Option<String>,
}

/// Reads the output of [`super::script`] to its end. `send` gets what is to be stored, piece by piece.
///
/// # Errors
/// Those of the output and of `send`. `InvalidData`: it is not the output of that script; or not all of it, `UnexpectedEof`.
pub fn read(
    mut output: impl Read,
    source: &Source,
    send: impl FnMut(Vec<u8>) -> io::Result<()>,
) -> io::Result<Counted> {
    let mut lines = Lines {
        source,
        tables: source.part.tables.iter(),
        frames: Frames::new(send)?,
        at: At::Start,
        counted: Counted::new(),
        last: Vec::new(),
    };
    if let Some(word) = &source.word {
        lines.frames.put(format!("\\restrict {word}\n\n").as_bytes())?;
    }
    lines.frames.put(PRELUDE.as_bytes())?;
    lines.next_table()?;
    let mut buffer = vec![0; READ];
    let (mut start, mut end) = (0, 0);
    // The line has begun that is too long to be held.
    let mut in_long = false;
    loop {
        if end == buffer.len() {
            if start > 0 {
                buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
            } else {
                buffer.resize(buffer.len() * 2, 0);
            }
        }
        let length = output.read(&mut buffer[end..])?;
        if length == 0 {
            break;
        }
        let mut searched = end;
        end += length;
        while let Some(newline) = memchr::memchr(b'\n', &buffer[searched..end]) {
            let next = searched + newline + 1;
            let line = &buffer[start..next];
            if in_long || line.len() > LONG {
                lines.long(line, in_long, true)?;
                in_long = false;
            } else {
                lines.line(line)?;
            }
            (start, searched) = (next, next);
        }
        // Never a line that may yet turn out to be short.
        if in_long || end - start > LONG {
            lines.long(&buffer[start..end], in_long, false)?;
            (in_long, start) = (true, end);
        }
        if start == end {
            (start, end) = (0, 0);
        }
    }
    if start != end || in_long { Err(cut_off()) } else { lines.finish() }
}

/// Behind the rows of a table.
const END: &str = "\\.\n\n";

/// Where it is.
enum At<'a> {
    Start,
    Rows { table: &'a Table, began: Place, rows: u64, order: Order },
    Statements,
}

struct Lines<'a, Send> {
    source: &'a Source,
    tables: std::slice::Iter<'a, Table>,
    frames: Frames<Send>,
    at: At<'a>,
    counted: Counted,
    /// What is stored last: of each table what came last. What grows every night stands there together, and spoils one place
    /// instead of one in each table.
    last: Vec<u8>,
}

impl<Send: FnMut(Vec<u8>) -> io::Result<()>> Lines<'_, Send> {
    /// One line, with its end.
    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let At::Rows { rows, order, .. } = &mut self.at else { return self.frames.put(line) };
        if line[..line.len() - 1] == *END_OF_ROWS.as_bytes() {
            return self.next_table();
        }
        *rows += 1;
        let (age, row) = age_and_row(line, self.source.next_transaction)?;
        let mut stored = Ok(());
        order.row(age, row, |row| and_then(&mut stored, || self.frames.put(row)));
        stored
    }

    /// A part of a line that is too long to be held.
    fn long(&mut self, part: &[u8], has_begun: bool, is_last: bool) -> io::Result<()> {
        let mut part = part;
        if !has_begun {
            if let At::Rows { rows, order, .. } = &mut self.at {
                *rows += 1;
                let (age, row) = age_and_row(part, self.source.next_transaction)?;
                part = row;
                let mut stored = Ok(());
                order.before_long(age, |row| and_then(&mut stored, || self.frames.put(row)));
                stored?;
            }
            self.frames.end_piece()?;
        }
        self.frames.put_part(part)?;
        if is_last { self.frames.end_piece() } else { Ok(()) }
    }

    /// The rows of a table have ended, or none have begun yet.
    fn next_table(&mut self) -> io::Result<()> {
        if let At::Rows { table, began, rows, order } = std::mem::replace(&mut self.at, At::Statements) {
            self.counted.insert(table.quoted.clone(), rows);
            self.end_table(table, began, order)?;
        }
        match self.tables.next() {
            Some(table) => {
                let order = Order::new(WAITING.saturating_sub(self.last.len()));
                self.at = At::Rows { table, began: self.frames.place(), rows: 0, order };
                self.frames.put(copy_from(table).as_bytes())
            }
            None => std::mem::take(&mut self.last)
                .split_inclusive(|byte| *byte == b'\n')
                .try_for_each(|line| self.frames.put(line)),
        }
    }

    fn end_table(&mut self, table: &Table, began: Place, order: Order) -> io::Result<()> {
        let mut stored = Ok(());
        let waited = order.end(|row| and_then(&mut stored, || self.frames.put(row)));
        stored?;
        if self.last.len() >= WAITING {
            return self.frames.put(END.as_bytes());
        }
        let head = copy_from(table);
        let (unfinished, is_all) = self.frames.take_back(began);
        let unfinished = if is_all { &unfinished[head.len()..] } else { &unfinished };
        if !is_all {
            self.frames.put(END.as_bytes())?;
        }
        if !unfinished.is_empty() || !waited.is_empty() {
            self.last.extend_from_slice(head.as_bytes());
            self.last.extend_from_slice(unfinished);
            waited.append_to(&mut self.last);
            self.last.extend_from_slice(END.as_bytes());
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Counted> {
        if !matches!(self.at, At::Statements) {
            return Err(cut_off());
        }
        if let Some(word) = &self.source.word {
            self.frames.put(format!("\n\\unrestrict {word}\n").as_bytes())?;
        }
        self.frames.finish()?;
        Ok(self.counted)
    }
}

fn and_then(so_far: &mut io::Result<()>, next: impl FnOnce() -> io::Result<()>) {
    if so_far.is_ok() {
        *so_far = next();
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the rows end too early")
}

/// A row stands behind the number of its transaction and a tab; a row without columns has none.
fn age_and_row(line: &[u8], next_transaction: u32) -> io::Result<(Age, &[u8])> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&line[..digits]).ok().and_then(|digits| digits.parse::<u32>().ok());
    let row = match line[digits] {
        b'\t' => &line[digits + 1..],
        _ => &line[digits..],
    };
    match number {
        // PostgreSQL's own: for rows that are older than everything.
        Some(0..3) => Ok((Age::MAX, row)),
        Some(number) => Ok((next_transaction.wrapping_sub(number), row)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "a row without the number of its transaction")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source() -> Source {
        let table = |name: &str, columns: &[&str]| Table {
            quoted: format!("public.{name}"),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            bytes: 1,
        };
        let tables = vec![table("events", &["id", "body"]), table("empty", &["a"]), table("bare", &[])];
        Source {
            part: Part { file: "data-1.sql.zst".to_owned(), tables },
            next_transaction: 9000,
            word: Some("abc".to_owned()),
        }
    }

    const OUTPUT: &str = "8999\t$1\t\\\\.\n2\t$2\tCOPY x\n\\.\n\\.\n700\n700\n\\.\nSELECT setval();\n";

    const STORED: &str = "COPY public.events (id, body) FROM stdin;\n$2\tCOPY x\n$1\t\\\\.\n\\.\n\nCOPY public.bare FROM stdin;\n\n\n\\.\n\nSELECT setval();\n";

    /// Gives no more at once than it is told.
    struct Pieces<'a>(std::vec::IntoIter<&'a [u8]>, &'a [u8]);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            while self.1.is_empty() {
                let Some(next) = self.0.next() else { return Ok(0) };
                self.1 = next;
            }
            self.1.read(buffer)
        }
    }

    fn stored(pieces: Vec<&[u8]>) -> io::Result<(Counted, String)> {
        let mut sent = Vec::new();
        let counted = read(Pieces(pieces.into_iter(), &[]), &source(), |piece| {
            sent.extend(piece);
            Ok(())
        })?;
        let sql = String::from_utf8(zstd::decode_all(&sent[..])?).unwrap();
        let within = sql.strip_prefix("\\restrict abc\n\n").and_then(|sql| sql.strip_suffix("\n\\unrestrict abc\n"));
        let rest = within.expect("restricted").strip_prefix(PRELUDE);
        Ok((counted, rest.expect("the prelude").to_owned()))
    }

    #[test]
    fn rows_are_counted_by_table_and_stored_as_sql() {
        let (counted, sql) = stored(vec![OUTPUT.as_bytes()]).unwrap();
        let expected = [("public.bare", 2), ("public.empty", 0), ("public.events", 2)];
        assert_eq!(counted, expected.map(|(table, rows)| (table.to_owned(), rows)).into());
        assert_eq!(sql, STORED);
    }

    #[test]
    fn what_is_cut_off_is_an_error_wherever() {
        // From there on the end of the statements is nobody's to know: psql's own end tells.
        let whole = OUTPUT.find("SELECT").unwrap();
        for end in 0..whole {
            let error = stored(vec![&OUTPUT.as_bytes()[..end]]).expect_err(&OUTPUT[..end]);
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(stored(vec![b"no number\n"]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// Rows of a user who fills what Synapse lets him fill, between others.
    fn with_long_rows() -> String {
        let long = |character: &str, length: usize| character.repeat(length);
        format!(
            "8999\t$1\t{}\n8\t$2\tshort\n8999\t$3\t{}\n7\t$4\t{}\n8998\t$5\tlast\n\\.\n\\.\n700\n\\.\n",
            long("x", LONG + 1),
            long("y", LONG - 20),
            long("\\\\u00e9", LONG),
        )
    }

    #[test]
    fn a_long_row_is_stored_as_it_came_and_not_held() {
        let output = with_long_rows();
        let (counted, sql) = stored(vec![output.as_bytes()]).unwrap();
        assert_eq!(counted["public.events"], 5);
        let mut rows: Vec<&str> = sql.lines().filter(|line| line.starts_with('$')).collect();
        rows.sort_unstable();
        let came = output.lines().filter_map(|line| line.find('$').map(|at| &line[at..]));
        assert!(came.eq(rows), "every row is there once, and whole");
        for step in [1000, 1 << 18, LONG, LONG + 1] {
            let again = stored(output.as_bytes().chunks(step).collect()).unwrap().1;
            assert!(again == sql, "read by {step} bytes it is stored otherwise");
        }
        let cut_off = output.find("$4").unwrap() + LONG * 3;
        assert_eq!(stored(vec![&output.as_bytes()[..cut_off]]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_read_ends(mut cuts in prop::collection::vec(0..OUTPUT.len(), 0..40)) {
            cuts.extend([0, OUTPUT.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &OUTPUT.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(stored(pieces).unwrap().1, STORED);
        }
    }
}
