//! A dump as SQL, whatever its format: through `gzip` and `pg_restore` where it must be.
//!
//! A custom dump could be restored by `pg_restore -j`, which is faster. It is turned into SQL instead, so that what it holds
//! goes the one way of every dump: its list of contents may have any statement in it too.

use std::{
    io,
    pin::Pin,
    process::Stdio,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    process::{Child, Command},
    task::JoinHandle,
};

use super::source::Found;
use crate::{
    contract::{Result, TaskError},
    postgres::{Target, clients, programs::Programs},
    restic::{Download, collect},
    task::schema::contents::{self, Contents},
};

/// A pipe holds 64 KiB; more at once saves wake-ups where both sides are quick.
const BUFFER: usize = 256 << 10;

/// So many bytes tell a format.
const HEAD: usize = 512;

/// As many lines of what a program complains of are repeated.
const LINES: usize = 5;

/// What a dump can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Sql,
    /// `pg_dump -Fc`.
    Custom,
    /// One of the others, compressed.
    Gzip,
}

impl Format {
    /// By how it begins.
    ///
    /// # Errors
    /// What to do with others.
    fn of(head: &[u8]) -> std::result::Result<Self, &'static str> {
        const UNPACK: &str = "unpack it first; gzip is the only compression that is known";
        match head {
            // The byte behind the version and the sizes of numbers names the format (`pg_backup_archiver.h`).
            [b'P', b'G', b'D', b'M', b'P', _, _, _, _, _, 1, ..] => Ok(Self::Custom),
            [b'P', b'G', b'D', b'M', b'P', ..] => Err("it is not in the custom format: make one with pg_dump -Fc"),
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] | [b'B', b'Z', b'h', ..] => Err(UNPACK),
            [b't', b'o', b'c', b'.', b'd', b'a', b't', 0, ..] => {
                Err("it is in the tar format: make one with pg_dump -Fc")
            }
            [] => Err("it is empty"),
            _ if head.contains(&0) => Err("it is neither SQL nor of pg_dump -Fc"),
            _ => Ok(Self::Sql),
        }
    }

    /// A database takes about so many times the disk, with its indexes. Of a Synapse of 370 MiB the SQL has 200 MiB.
    pub fn growth(self) -> u64 {
        match self {
            Self::Sql => 3,
            Self::Custom | Self::Gzip => 10,
        }
    }
}

/// A dump that is being read.
pub struct Reading {
    sql: Stream,
    programs: Vec<Program>,
    download: Option<Download>,
    seen: Arc<Mutex<Sha256>>,
    /// Of the file itself.
    pub format: Format,
}

/// A program that turns one stream into another.
struct Program {
    name: &'static str,
    child: Child,
    fed: JoinHandle<io::Result<()>>,
    complained: JoinHandle<String>,
}

type Stream = Box<dyn AsyncRead + Send + Unpin>;

impl Reading {
    /// Begins. `target` is the server whose major `programs` have; nothing is done there.
    ///
    /// # Errors
    /// Terminal: `DumpFormatUnknown`, `DumpUnreadable`. What restic answers.
    pub async fn begin(found: &Found, programs: &Programs, target: &Target) -> Result<Self> {
        let (stream, download) = found.open().await?;
        let seen = Arc::new(Mutex::new(Sha256::new()));
        let mut reading = Self {
            sql: Box::new(Seen { stream, hash: Arc::clone(&seen) }),
            programs: Vec::new(),
            download,
            seen,
            format: Format::Sql,
        };
        // What gzip has packed may be of the custom format: two in a row, and SQL.
        for step in 0..3 {
            let format = reading.recognize(&found.path, programs.major).await?;
            if step == 0 {
                reading.format = format;
            }
            let (name, command) = match format {
                Format::Sql => break,
                Format::Gzip => ("gzip", gunzip()),
                Format::Custom => ("pg_restore", to_sql(programs, target)?),
            };
            reading.through(name, command)?;
        }
        Ok(reading)
    }

    /// What a custom dump has, and how: it stands at its beginning. `None`: it is SQL.
    ///
    /// # Errors
    /// Terminal: `DumpFormatUnknown`, `DumpUnreadable`. What restic answers.
    pub async fn contents(found: &Found, programs: &Programs, target: &Target) -> Result<Option<Contents>> {
        let (stream, download) = found.open().await?;
        let hash = Arc::default();
        let sql: Stream = Box::new(Seen { stream, hash: Arc::clone(&hash) });
        let mut reading = Self { sql, programs: Vec::new(), download, seen: hash, format: Format::Sql };
        let mut format = reading.recognize(&found.path, programs.major).await?;
        if format == Format::Gzip {
            reading.through("gzip", gunzip())?;
            format = reading.recognize(&found.path, programs.major).await?;
        }
        if format != Format::Custom {
            return Ok(None);
        }
        let mut command = contents::statements(programs, target)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| broken(&error.to_string()))?;
        let mut input = child.stdin.take().expect("its input is a pipe");
        // It ends when it has seen the list, long before the rows.
        let feeding = tokio::spawn(async move { tokio::io::copy(&mut reading.sql, &mut input).await.map(drop) });
        let output = child.wait_with_output().await.map_err(|error| broken(&error.to_string()))?;
        feeding.abort();
        if !output.status.success() {
            let said = first_lines(&String::from_utf8_lossy(&output.stderr));
            return Err(broken(&format!("pg_restore ended with {}: {said}", output.status)));
        }
        Contents::read(&output.stdout).map(Some).map_err(|why| broken(&why))
    }

    async fn recognize(&mut self, path: &str, major: i32) -> Result<Format> {
        let mut head = Vec::with_capacity(HEAD);
        let read = (&mut self.sql).take(HEAD as u64).read_to_end(&mut head).await;
        read.map_err(|error| broken(&error.to_string()))?;
        if head.is_empty() {
            // Whoever should have written it says why.
            self.ended_well().await?;
        }
        let reader = clients::reads_archive(&head);
        if reader > major {
            return Err(too_new(reader, major));
        }
        let format = Format::of(&head);
        let rest = std::mem::replace(&mut self.sql, Box::new(tokio::io::empty()));
        self.sql = Box::new(io::Cursor::new(head).chain(rest));
        format.map_err(|what| TaskError::terminal("DumpFormatUnknown", format!("{path} cannot be restored: {what}.")))
    }

    fn through(&mut self, name: &'static str, mut command: Command) -> Result<()> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| {
            TaskError::terminal("ClientProgramsMissing", format!("{name} cannot be started: {error}."))
        })?;
        let output = child.stdout.take().expect("its output is a pipe");
        let mut input = child.stdin.take().expect("its input is a pipe");
        let mut stream = std::mem::replace(&mut self.sql, Box::new(output));
        let complained = collect(child.stderr.take());
        let fed = tokio::spawn(async move {
            let mut buffer = vec![0; BUFFER];
            let mut wants_more = true;
            loop {
                let length = stream.read(&mut buffer).await?;
                if length == 0 {
                    return Ok(());
                }
                // A program may know before the end that it has all. The rest belongs to the checksum.
                wants_more = wants_more && input.write_all(&buffer[..length]).await.is_ok();
            }
        });
        self.programs.push(Program { name, child, fed, complained });
        Ok(())
    }

    /// More of the SQL, into an empty buffer; nothing: it is over.
    ///
    /// # Errors
    /// Terminal, `DumpUnreadable`.
    pub async fn more(&mut self, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        buffer.reserve(BUFFER);
        self.sql.read_buf(buffer).await.map(drop).map_err(|error| broken(&error.to_string()))
    }

    /// When all of it has been read: its checksum (SHA-256 of the file, in hexadecimal).
    ///
    /// # Errors
    /// What restic, `gzip` or `pg_restore` said: what was read is not all.
    pub async fn finish(mut self) -> Result<String> {
        self.ended_well().await?;
        let hash = self.seen.lock().map(|hash| hash.clone().finalize()).expect("nobody panics with it");
        Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    async fn ended_well(&mut self) -> Result<()> {
        let mut ended = Vec::new();
        for Program { name, mut child, fed, complained } in std::mem::take(&mut self.programs) {
            if let Ok(Err(error)) = fed.await {
                ended.push(Err(broken(&error.to_string())));
            }
            let status = child.wait().await;
            let said = complained.await.unwrap_or_default();
            ended.push(match status {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(broken(&format!("{name} ended with {status}: {}", first_lines(&said)))),
                Err(error) => Err(broken(&format!("{name}: {error}"))),
            });
        }
        // What restic did not give to the end looks like damage to the others.
        if let Some(download) = self.download.take() {
            download.finish().await?;
        }
        ended.into_iter().collect()
    }
}

fn gunzip() -> Command {
    let mut command = Command::new("gzip");
    command.args(["--decompress", "--stdout"]);
    command
}

/// Nothing of other roles, and nothing that Synapse does not need: the same as [`super::rules`] leaves out.
fn to_sql(programs: &Programs, target: &Target) -> Result<Command> {
    let mut command = programs.command("pg_restore", target)?;
    command.env_remove("PGDATABASE").args([
        "--file=-",
        // With comments that tell which entry of the list of contents it is.
        "--verbose",
        "--no-owner",
        "--no-privileges",
        "--no-comments",
        "--no-publications",
        "--no-subscriptions",
        "--no-security-labels",
        "--no-tablespaces",
    ]);
    Ok(command)
}

/// A verbose program says much besides.
fn first_lines(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let errors: Vec<&str> = lines().filter(|line| line.contains("error:")).take(LINES).collect();
    if errors.is_empty() { lines().take(LINES).collect::<Vec<_>>().join("; ") } else { errors.join("; ") }
}

fn too_new(reader: i32, major: i32) -> TaskError {
    TaskError::terminal(
        "PostgresTooOld",
        format!(
            "The dump is of pg_dump {reader} or newer, and the newest pg_restore here is of PostgreSQL {major}: make one with an older \
             pg_dump, or use a tools image with postgresql-client-{reader}. Nothing was replaced."
        ),
    )
}

fn broken(said: &str) -> TaskError {
    TaskError::terminal(
        "DumpUnreadable",
        format!("The dump cannot be read to its end: {said}. Nothing was replaced: is it damaged, or cut off?"),
    )
}

/// A stream whose bytes are hashed as they pass.
struct Seen {
    stream: Stream,
    hash: Arc<Mutex<Sha256>>,
}

impl AsyncRead for Seen {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let (Poll::Ready(Ok(())), Ok(mut hash)) = (&polled, self.hash.lock()) {
            hash.update(&buffer.filled()[before..]);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_told_by_how_it_begins() {
        assert_eq!(Format::of(b"--\n-- PostgreSQL database dump\n"), Ok(Format::Sql));
        assert_eq!(Format::of(b"PGDMP\x01\x0e\x00\x04\x08\x01\x01\x01"), Ok(Format::Custom));
        assert_eq!(Format::of(b"\x1f\x8b\x08\x00"), Ok(Format::Gzip));
        for (head, words) in [
            (&b"PGDMP\x01\x0e\x00\x04\x08\x03"[..], "pg_dump -Fc"),
            (b"\x28\xb5\x2f\xfd\x00", "unpack it"),
            (b"BZh91AY", "unpack it"),
            (b"toc.dat\0\0", "tar"),
            (b"SQLite format 3\0", "neither"),
            (b"", "empty"),
        ] {
            assert!(Format::of(head).is_err_and(|what| what.contains(words)), "{head:?}");
        }
    }
}
