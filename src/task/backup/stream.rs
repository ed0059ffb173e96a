//! From `pg_dump` to restic, counting the rows that pass.

use std::{collections::BTreeMap, process::Stdio};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::stopped;

use crate::{
    postgres::Result,
    restic::{Stored, Upload, collect},
    task::report::TaskError,
};

/// A pipe holds 64 KiB; more at once saves wake-ups where both sides are quick.
const BUFFER: usize = 256 << 10;

/// Stores the output of `command` through `upload`, unless `stop` comes first.
///
/// # Errors
/// What the program or restic said, or that it was stopped. Then there is no snapshot.
pub async fn carry(mut command: Command, mut upload: Upload, stop: &CancellationToken) -> Result<(Stored, Rows)> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = match command.spawn() {
        Ok(program) => program,
        Err(error) => {
            upload.abandon().await;
            return Err(TaskError::terminal("ClientProgramsMissing", format!("pg_dump cannot be started: {error}.")));
        }
    };
    // Beside everything else: a full pipe would stop it.
    let complained = collect(program.stderr.take());
    let mut rows = Counter::default();
    let stops = upload.stops();
    let copied = tokio::select! {
        copied = copy(&mut program, &mut upload, &mut rows) => Some(copied),
        why = stops => Some(Err(End::GivenUp(why))),
        () = stop.cancelled() => None,
    };
    match copied {
        Some(Ok(())) => {
            if let Err(error) = ended_well(program, complained).await {
                upload.abandon().await;
                return Err(error);
            }
            Ok((upload.finish().await?, rows.finish()))
        }
        Some(Err(End::GivenUp(why))) => {
            let _ = program.kill().await;
            upload.abandon().await;
            Err(why)
        }
        // restic has closed its end.
        Some(Err(End::Output)) => {
            let _ = program.kill().await;
            Err(upload.why_it_ended().await)
        }
        Some(Err(End::Input(error))) => {
            let _ = program.kill().await;
            upload.abandon().await;
            Err(TaskError::transient("DumpFailed", format!("Reading from pg_dump: {error}.")))
        }
        None => {
            let _ = program.kill().await;
            upload.abandon().await;
            Err(stopped())
        }
    }
}

/// Stores a few bytes that are at hand.
///
/// # Errors
/// What restic said.
pub async fn carry_bytes(bytes: &[u8], mut upload: Upload) -> Result<Stored> {
    let input = upload.input.as_mut().expect("its input is a pipe");
    match input.write_all(bytes).await {
        Ok(()) => upload.finish().await,
        Err(_) => Err(upload.why_it_ended().await),
    }
}

/// Why not all of it passed.
enum End {
    /// The pipe from the program broke.
    Input(std::io::Error),
    /// The pipe to restic broke.
    Output,
    /// restic comes no further.
    GivenUp(TaskError),
}

async fn copy(program: &mut Child, upload: &mut Upload, rows: &mut Counter) -> std::result::Result<(), End> {
    let mut output = program.stdout.take().expect("its output is a pipe");
    let input = upload.input.as_mut().expect("its input is a pipe");
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = output.read(&mut buffer).await.map_err(End::Input)?;
        if length == 0 {
            return Ok(());
        }
        rows.see(&buffer[..length]);
        input.write_all(&buffer[..length]).await.map_err(|_| End::Output)?;
    }
}

/// Waits for the end of `pg_dump`, whose output has been read. Another try may help: the server may have gone away.
async fn ended_well(mut program: Child, complained: JoinHandle<String>) -> Result<()> {
    match program.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let said = complained.await.unwrap_or_default().trim().replace('\n', "; ");
            Err(TaskError::transient("DumpFailed", format!("pg_dump ended with {status}: {said}")))
        }
        Err(error) => Err(TaskError::transient("DumpFailed", format!("pg_dump: {error}."))),
    }
}

/// Rows by table, as `pg_dump` names the tables.
pub type Rows = BTreeMap<String, u64>;

/// Reads along in the plain output of `pg_dump --data-only`, and counts.
///
/// A table's rows stand between `COPY <table> (<columns>) FROM stdin;` and `\.`, a row a line: `COPY` writes a line's end
/// inside a value as `\n`, so no row looks like the end.
#[derive(Default)]
struct Counter {
    rows: Rows,
    /// The table that the lines belong to, and how many there were.
    table: Option<(String, u64)>,
    /// The beginning of a line whose end has not been seen: all of it outside of a table, enough of it inside.
    begun: Vec<u8>,
}

/// The line behind a table's rows.
const END_OF_ROWS: &[u8] = b"\\.";

impl Counter {
    fn see(&mut self, mut bytes: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if self.begun.is_empty() {
                self.line(&bytes[..end]);
            } else {
                self.begin(&bytes[..end]);
                let line = std::mem::take(&mut self.begun);
                self.line(&line);
            }
            bytes = &bytes[end + 1..];
        }
        self.begin(bytes);
    }

    fn begin(&mut self, bytes: &[u8]) {
        // A row may be large, and all that matters is whether it is one.
        let wanted =
            if self.table.is_some() { (END_OF_ROWS.len() + 1).saturating_sub(self.begun.len()) } else { bytes.len() };
        self.begun.extend_from_slice(&bytes[..wanted.min(bytes.len())]);
    }

    fn line(&mut self, line: &[u8]) {
        match &mut self.table {
            Some(_) if line == END_OF_ROWS => self.rows.extend(self.table.take()),
            Some((_, rows)) => *rows += 1,
            None => self.table = table_of(line).map(|table| (table, 0)),
        }
    }

    /// A table whose end was not seen is not among them.
    fn finish(self) -> Rows {
        self.rows
    }
}

/// The table whose rows follow a line.
fn table_of(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line).ok()?.strip_prefix("COPY ")?.strip_suffix(" FROM stdin;")?;
    // A quoted name may hold anything, a bracket too; columns come behind the last quote that closes a name.
    let mut quoted = false;
    let end = text.char_indices().find(|(_, character)| {
        quoted ^= *character == '"';
        !quoted && *character == '('
    });
    Some(text[..end.map_or(text.len(), |(end, _)| end)].trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\nSET client_encoding = 'UTF8';\n\n\
        COPY public.events (event_id, body) FROM stdin;\n\
        $1\tCOPY public.fake (a) FROM stdin;\n$2\t\\\\.\n\\.\n\n\n\
        --\n-- Data for Name: empty\n--\n\nCOPY public.empty (a) FROM stdin;\n\\.\n\n\
        COPY \"odd (name\".\"user\" (\"a(\", b) FROM stdin;\n\n1\n\\.\n\n--\n-- done\n--\n";

    fn count(pieces: &[&[u8]]) -> Vec<(String, u64)> {
        let mut counter = Counter::default();
        pieces.iter().for_each(|piece| counter.see(piece));
        counter.finish().into_iter().collect()
    }

    #[test]
    fn rows_are_counted_by_table() {
        let expected = [("\"odd (name\".\"user\"", 2), ("public.empty", 0), ("public.events", 2)];
        assert_eq!(count(&[DUMP.as_bytes()]), expected.map(|(table, rows)| (table.to_owned(), rows)));
    }

    #[test]
    fn a_table_that_is_cut_off_is_not_counted() {
        assert_eq!(count(&[b"COPY public.events (a) FROM stdin;\n1\n2\n"]), []);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_read_ends(mut cuts in prop::collection::vec(0..DUMP.len(), 0..40)) {
            cuts.extend([0, DUMP.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &DUMP.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(count(&pieces), count(&[DUMP.as_bytes()]));
        }
    }
}
