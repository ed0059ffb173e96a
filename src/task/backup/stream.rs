//! From a program to restic.

use std::{
    fs::File,
    io,
    process::{Output, Stdio},
};

use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    rows::{self, Counted, Source},
    stopped,
};
use crate::{
    contract::TaskError,
    postgres::{Result, errors, said::refusals},
    restic::{Stored, Upload, collect},
};

/// Pieces that are ready before restic takes them, each of up to 5 MiB and mostly of a tenth of that.
const AHEAD: usize = 4;

/// Why rows were not stored.
pub struct NotCarried {
    pub error: TaskError,
    /// The SQLSTATE of what PostgreSQL refused, and the line of the script that `psql` was at.
    pub refused: Option<(String, usize)>,
}

impl From<TaskError> for NotCarried {
    fn from(error: TaskError) -> Self {
        Self { error, refused: None }
    }
}

/// Stores the rows that `psql` writes through `upload`, unless `stop` comes first.
///
/// # Errors
/// What the program or restic said, or that it was stopped. Then there is no snapshot. Terminal, `DumpDiffers`, where what `psql`
/// wrote is not what it was asked for.
pub async fn carry_rows(
    mut psql: Command,
    source: Source,
    mut upload: Upload,
    stop: &CancellationToken,
) -> std::result::Result<(Stored, Counted), NotCarried> {
    psql.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut program, output) = match psql.spawn().and_then(with_output) {
        Ok(started) => started,
        Err(error) => {
            upload.abandon().await;
            return Err(not_started("psql", &error).into());
        }
    };
    // Beside everything else: a full pipe would stop it.
    let complained = collect(program.stderr.take());
    let (sender, mut pieces) = mpsc::channel(AHEAD);
    // It computes more than it waits, and streams are read side by side.
    let reading = tokio::task::spawn_blocking(move || {
        rows::read(output, &source, |piece| sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into()))
    });
    let fed = feed(&mut upload, stop, async |input| {
        while let Some(piece) = pieces.recv().await {
            input.write_all(&piece).await?;
        }
        Ok(())
    })
    .await;
    // Who still has a piece to give finds nobody.
    drop(pieces);
    if let Err(end) = fed {
        let _ = program.kill().await;
        return Err(why(end, upload).await.into());
    }
    match all_read(program, complained, reading).await {
        Ok(counted) => Ok((upload.finish().await?, counted)),
        Err(error) => {
            upload.abandon().await;
            Err(error)
        }
    }
}

/// All that a program writes, where it is little.
///
/// # Errors
/// What it said.
pub async fn output_of(mut command: Command, program: &str) -> Result<Vec<u8>> {
    let output = command.output().await.map_err(|error| not_started(program, &error))?;
    let Output { status, stdout, stderr } = output;
    if status.success() {
        Ok(stdout)
    } else {
        Err(failed(program, &status.to_string(), &String::from_utf8_lossy(&stderr)))
    }
}

/// Stores what is at hand, and little.
///
/// # Errors
/// What restic said.
pub async fn carry_bytes(bytes: &[u8], upload: Upload) -> Result<Stored> {
    carry_bytes_unless(&CancellationToken::new(), bytes, upload).await
}

/// Stores what is at hand, unless `stop` comes first.
///
/// # Errors
/// What restic said, or that it was stopped.
pub async fn carry_bytes_unless(stop: &CancellationToken, bytes: &[u8], mut upload: Upload) -> Result<Stored> {
    match feed(&mut upload, stop, async |input| input.write_all(bytes).await).await {
        Ok(()) => upload.finish().await,
        Err(end) => Err(why(end, upload).await),
    }
}

/// A program with its output, for who reads it as a file.
fn with_output(mut program: Child) -> io::Result<(Child, File)> {
    let output = program.stdout.take().expect("its output is a pipe").into_owned_fd()?;
    Ok((program, output.into()))
}

/// Why not all of it was stored.
enum End {
    /// restic has closed its end of the pipe.
    Closed,
    /// restic comes no further.
    GivenUp(TaskError),
    Stopped,
}

/// Writes to restic's input. It may not read at all, while it tries to reach the storage.
async fn feed(
    upload: &mut Upload,
    stop: &CancellationToken,
    write: impl AsyncFnOnce(&mut ChildStdin) -> io::Result<()>,
) -> std::result::Result<(), End> {
    let stops = upload.stops();
    let input = upload.input.as_mut().expect("its input is a pipe");
    tokio::select! {
        written = write(input) => written.map_err(|_| End::Closed),
        why = stops => Err(End::GivenUp(why)),
        () = stop.cancelled() => Err(End::Stopped),
    }
}

async fn why(end: End, upload: Upload) -> TaskError {
    match end {
        End::Closed => upload.why_it_ended().await,
        End::GivenUp(why) => {
            upload.abandon().await;
            why
        }
        End::Stopped => {
            upload.abandon().await;
            stopped()
        }
    }
}

/// Nothing more comes: was it all? Of a program that failed its own words tell why.
async fn all_read(
    mut program: Child,
    complained: JoinHandle<String>,
    reading: JoinHandle<io::Result<Counted>>,
) -> std::result::Result<Counted, NotCarried> {
    let read = reading.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    if read.is_err() {
        // It may have more to say, to nobody.
        let _ = program.start_kill();
    }
    let status = program.wait().await.map_err(|error| not_started("psql", &error))?;
    let complained = complained.await.unwrap_or_default();
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(TaskError::terminal(
            "DumpDiffers",
            format!("What psql wrote is not what it was asked for ({error}): please report it. {complained}"),
        )
        .into()),
        Err(error) if status.success() => Err(failed("psql", &error.to_string(), &complained).into()),
        Ok(counted) if status.success() => Ok(counted),
        _ => {
            let first = refusals(&complained).into_iter().next();
            let refused = first.and_then(|refusal| Some((refusal.code, refusal.line?)));
            Err(NotCarried { error: failed("psql", &status.to_string(), &complained), refused })
        }
    }
}

/// By PostgreSQL's SQLSTATE where there is one. Without it another try may help: the server may have gone away.
fn failed(program: &str, how: &str, said: &str) -> TaskError {
    if let Some(refusal) = refusals(said).into_iter().next() {
        let (class, reason, advice) = errors::meaning(&refusal.code, &refusal.words);
        let reason = if reason == "DatabaseError" { "DumpFailed" } else { reason };
        let message = format!("{program}: {} [{}]. {advice}", refusal.words, refusal.code);
        return TaskError { class, reason: reason.to_owned(), message };
    }
    let said = said.trim().replace('\n', "; ");
    if errors::is_of_lock_table(&said) {
        let (class, reason, advice) = errors::LOCK_TABLE_FULL;
        return TaskError { class, reason: reason.to_owned(), message: format!("{program}: {said}. {advice}") };
    }
    TaskError::transient("DumpFailed", format!("{program} ended with {how}: {said}"))
}

fn not_started(program: &str, error: &io::Error) -> TaskError {
    TaskError::terminal("ClientProgramsMissing", format!("{program} cannot be started: {error}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ErrorClass;

    #[test]
    fn a_full_lock_table_is_no_lack_of_memory() {
        // `pg_dump` says no SQLSTATE.
        for (program, said) in [
            (
                "pg_dump",
                "pg_dump: Fehler: Anfrage fehlgeschlagen: FEHLER:  kein Shared Memory mehr\nTIP:  »max_locks_per_transaction«",
            ),
            (
                "psql",
                "psql:a:4: ERROR:  53200: out of shared memory\nHINT:  You might need to increase \"max_locks_per_transaction\".",
            ),
        ] {
            let error = failed(program, "exit status: 1", said);
            assert_eq!((error.reason.as_str(), error.class), ("LockTableTooSmall", ErrorClass::Terminal), "{error}");
        }
        assert_eq!(failed("psql", "exit status: 1", "psql:a:4: ERROR:  53200: out of memory").reason, "OutOfMemory");
    }
}
