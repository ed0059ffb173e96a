//! A backup's database into an empty one: tables, rows, indexes.
//!
//! Several streams at once, and indexes after the rows, by PostgreSQL's own programs. The rows go from restic to `psql`
//! through pipes, unpacked on the way: nothing is put on a disk in between. Nobody uses the database yet, so nobody waits for
//! its disk either (`synchronous_commit`); what it was filled with is read back and counted afterwards, see [`super::check`].

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::process::Command;

use super::refused::{by_code, by_program, by_psql};
use crate::{
    contract::{Result, TaskError, output::progress},
    postgres::{
        Explain, Session, Target, errors,
        programs::Programs,
        said::{VERBOSE, refusals},
        settings::Setting,
    },
    restic::{DAMAGED, Download, KILLED, Repository, collect},
    task::{
        backup::{exclude, manifest::Dump, parts, snapshot::ONE_TIME_KEYS},
        schema::{Choice, Contents, Facts, Place, facts, views},
        sql::{making::Making, statement::Statement},
    },
};

/// Indexes are sorted in memory where it suffices: PostgreSQL's own default, 64 MiB, is for machines of long ago.
const SETTINGS: [Setting; 2] = [("synchronous_commit", "off"), ("maintenance_work_mem", "256MB")];

/// What is filled, from what.
pub struct Filling<'a> {
    pub repository: &'a Repository,
    pub dump: &'a Dump,
    /// An empty database, and the role that will own the tables.
    pub target: &'a Target,
    pub programs: &'a Programs,
    /// A directory for the schema, some MiB.
    pub scratch: &'a Path,
    /// How many streams and indexes at once.
    pub at_once: u16,
    /// Where a superuser can put what our role cannot make.
    pub place: Place,
}

/// What a filled database lacks, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// What belongs to the server or to a superuser: see [`crate::task::schema`].
    pub left_out: Vec<String>,
    /// Materialized views that could not be filled.
    pub views: Vec<String>,
    /// Rights of roles that this server does not have.
    pub rights: Vec<String>,
}

impl Filled {
    /// All of it, for a restore.
    pub fn warnings(self) -> Vec<String> {
        let left_out = self.left_out.into_iter().map(|line| format!("not restored: {line}"));
        left_out.chain(self.views).chain(self.rights).collect()
    }
}

/// Reads a backup's schema into a directory; where it is there already, not a second time.
///
/// # Errors
/// What restic said.
pub async fn fetch_schema(repository: &Repository, dump: &Dump, scratch: &Path) -> Result<PathBuf> {
    let file = dump.schema_file();
    let (path, new) = (scratch.join(file), scratch.join(file).with_extension("new"));
    if path.exists() {
        return Ok(path);
    }
    let part = dump.part(file)?;
    let mut download = repository.read_stream(&part.snapshot, file)?;
    let copied = async {
        let mut file = tokio::fs::File::create(&new).await?;
        let mut output = download.output.take().expect("its output is a pipe");
        tokio::io::copy(&mut output, &mut file).await?;
        file.sync_all().await
    };
    let copied = copied.await;
    download.finish().await?;
    copied.and_then(|()| std::fs::rename(&new, &path)).map_err(|error| TaskError::no_scratch_space(&error))?;
    Ok(path)
}

impl Filling<'_> {
    /// Fills the database.
    ///
    /// Dropped in the middle, it leaves a part of a database.
    ///
    /// # Errors
    /// What restic, `psql` or `pg_restore` said. Terminal, `SuperuserNeeded`: a table needs what our role cannot make.
    pub async fn fill(&self) -> Result<Filled> {
        match self.fill_it().await {
            Err(error) if error.reason == "RestoreFailed" => {
                Err(facts::naming_event_triggers(self.target, error).await)
            }
            filled => filled,
        }
    }

    async fn fill_it(&self) -> Result<Filled> {
        let files = self.largest_first();
        // Each has a key to derive and an index to read before it gives anything.
        let ahead = files.iter().take(self.at_once.into()).map(|file| self.read(file));
        let ahead = ahead.collect::<Result<Vec<Download>>>()?;
        let schema = fetch_schema(self.repository, self.dump, self.scratch).await?;
        let choice = self.choose(&schema).await?;
        choice.is_possible(&self.place)?;
        let listed = self.listed(&schema, &choice.skipped).await?;
        let list = format!("--use-list={}", self.write("made.list", &listed)?.display());
        progress("makes the tables");
        let shared = ["--no-owner", "--no-privileges", "--no-tablespaces", &list];
        let tables = self.sql(&[&["--section=pre-data"], shared.as_slice()].concat(), &schema).await?;
        let mut psql = self.psql()?;
        psql.args(["--set=ON_ERROR_STOP=1", "--file"]).arg(self.write("tables.sql", &tables)?);
        run(psql).await?;
        self.rows(files, ahead).await?;
        progress("makes the indexes");
        let indexes = self.sql(&[&["--section=post-data"], shared.as_slice()].concat(), &schema).await?;
        Making::begin(self.target, self.at_once, not_made).await?.run_all(indexes.as_bytes()).await?;
        forget_one_time_keys(self.target).await?;
        let was_filled = |view: &str| !self.dump.unfilled_views.iter().any(|unfilled| unfilled == view);
        Ok(Filled {
            left_out: exclude::told(&self.dump.excluded).into_iter().chain(choice.told()).collect(),
            views: views::refresh(self.target, was_filled, self.dump.search_path.as_deref()).await?,
            rights: self.privileges(&schema, &listed).await?,
        })
    }

    /// What of the schema our role can make in this database.
    async fn choose(&self, schema: &Path) -> Result<Choice> {
        let contents = Contents::of(self.programs, self.target, schema).await?;
        let mut session = self.target.connect().await?;
        let mut facts = Facts::here(&mut session, &self.target.credentials.username).await?;
        facts.try_collations(&mut session, &contents).await?;
        Ok(Choice::of(&contents, &facts))
    }

    /// The list of the schema's contents, without what is not made.
    async fn listed(&self, schema: &Path, skipped: &BTreeSet<u32>) -> Result<String> {
        let mut list = self.programs.that_read(schema).await?.command("pg_restore", self.target)?;
        list.arg("--list").arg(schema).env_remove("PGDATABASE");
        let listed = output_of(list, "pg_restore").await?;
        let id = |line: &str| line.split_once(';').and_then(|(id, _)| id.parse::<u32>().ok());
        let made = |line: &&str| id(line).is_none_or(|id| !skipped.contains(&id));
        Ok(listed.lines().filter(made).flat_map(|line| [line, "\n"]).collect())
    }

    fn largest_first(&self) -> Vec<&String> {
        let mut files: Vec<&String> = self.dump.row_files().collect();
        files.sort_by_key(|file| std::cmp::Reverse(self.dump.parts[*file].bytes));
        files
    }

    fn read(&self, file: &str) -> Result<Download> {
        self.repository.read_stream(&self.dump.part(file)?.snapshot, file)
    }

    /// All streams of rows, of which the first have begun already.
    async fn rows(&self, files: Vec<&String>, ahead: Vec<Download>) -> Result<()> {
        let count = files.len();
        let mut ahead = ahead.into_iter();
        let streams = files.into_iter().map(|file| {
            let begun = ahead.next();
            async move { self.stream(file, begun.map_or_else(|| self.read(file), Ok)?).await }
        });
        let mut filling = stream::iter(streams).buffer_unordered(self.at_once.into());
        let mut done = 0;
        while filling.try_next().await?.is_some() {
            done += 1;
            progress(&format!("{done} of {count} streams of rows are back"));
        }
        Ok(())
    }

    /// restic writes, `psql` reads. A stream that is cut off looks to `psql` like one that has ended: restic's own end
    /// tells.
    async fn stream(&self, file: &str, mut download: Download) -> Result<()> {
        let output = download.output.take().expect("its output is a pipe").into_owned_fd();
        let output = File::from(output.map_err(|error| by_program("psql", &error.to_string()))?);
        let mut psql = self.psql()?;
        psql.args(["--set=ON_ERROR_STOP=1", "--file=-"]);
        let (read, unpacked, written) = if parts::is_compressed(file) {
            let (reader, writer) = std::io::pipe().map_err(|error| by_program("psql", &error.to_string()))?;
            psql.stdin(reader);
            let unpacking = tokio::task::spawn_blocking(move || zstd::stream::copy_decode(output, writer));
            let unpacked = async { unpacking.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) };
            tokio::join!(download.finish(), unpacked, run(psql))
        } else {
            psql.stdin(output);
            let (read, written) = tokio::join!(download.finish(), run(psql));
            (read, Ok(()), written)
        };
        match (read, written) {
            // restic found nobody to write to.
            (Err(read), Err(written)) if read.reason == KILLED || read.message.contains("broken pipe") => Err(written),
            // Whatever `psql` says of what restic did not give to the end.
            (Err(read), _) => Err(read),
            (Ok(()), Err(written)) => Err(written),
            (Ok(()), Ok(())) => unpacked.map_err(|error| {
                TaskError::terminal(DAMAGED, format!("{file} is not what zstd has written: {error}."))
            }),
        }
    }

    fn psql(&self) -> Result<Command> {
        let mut command = self.programs.command_with("psql", self.target, &SETTINGS)?;
        command.args(["--no-psqlrc", "--quiet", "--output=/dev/null", VERBOSE]);
        Ok(command)
    }

    /// What `pg_restore` would run. It prints no SQLSTATE, and takes a database's name for more than that: it does not connect.
    async fn sql(&self, arguments: &[&str], schema: &Path) -> Result<String> {
        let programs = self.programs.that_read(schema).await?;
        let mut command = programs.command("pg_restore", self.target)?;
        command.env_remove("PGDATABASE").arg("--file=-").args(arguments).arg(schema);
        Ok(programs.understood(output_of(command, "pg_restore").await?))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.scratch.join(name);
        std::fs::write(&path, text).map_err(|error| TaskError::no_scratch_space(&error))?;
        Ok(path)
    }

    /// Rights that were granted to other roles, such as an exporter's. A role that is not there is told, and is no reason
    /// to be without the messages.
    async fn privileges(&self, schema: &Path, listed: &str) -> Result<Vec<String>> {
        let wanted: String = listed.lines().filter(|line| is_privilege(line)).flat_map(|line| [line, "\n"]).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let list = format!("--use-list={}", self.write("privileges.list", &wanted)?.display());
        let statements = self.write("privileges.sql", &self.sql(&[&list], schema).await?)?;
        let mut psql = self.psql()?;
        psql.arg("--file").arg(&statements).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = psql.output().await.map_err(|error| by_program("psql", &error.to_string()))?;
        let refused = refusals(&String::from_utf8_lossy(&output.stderr));
        let mut refused: Vec<String> =
            refused.into_iter().map(|refusal| format!("a right was not given again: {}", refusal.words)).collect();
        refused.sort();
        refused.dedup();
        Ok(refused)
    }
}

/// A statement behind the rows: an index, a key, a trigger.
fn not_made(error: &sqlx::Error, statement: &Statement) -> TaskError {
    let explained = errors::failed(error, &format!("running {}", statement.beginning()));
    match (errors::sqlstate(error), error.as_database_error()) {
        (Some(code), Some(said)) => {
            let more = errors::detail(error).into_iter().chain(errors::hint(error));
            let detail: String = more.map(|more| format!(" ({more})")).collect();
            by_code(code, &format!("While running {}: {}{detail}", statement.beginning(), said.message()))
        }
        _ => explained,
    }
}

/// A backup has none. Here they go whoever made the dump: one that is handed out twice makes messages unreadable for ever
/// (element-hq/element-meta#2155).
///
/// # Errors
/// Those of PostgreSQL.
pub async fn forget_one_time_keys(target: &Target) -> Result<()> {
    let mut session = target.connect().await?;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relname = $1 AND c.relkind = 'r'",
    )
    .bind(ONE_TIME_KEYS)
    .fetch_all(&mut session.connection)
    .await
    .explain("looking for the table of one-time keys")?;
    for table in tables {
        session.execute(&format!("TRUNCATE {table}")).await.explain("forgetting the one-time keys")?;
    }
    Ok(())
}

/// A line of `pg_restore --list` that stands for rights: `215; 0 0 ACL public TABLE events synapse`.
fn is_privilege(line: &str) -> bool {
    let Some((_, entry)) = line.split_once("; ") else { return false };
    let mut words = entry.split(' ').skip(2);
    matches!((words.next(), words.next()), (Some("ACL"), _) | (Some("DEFAULT"), Some("ACL")))
}

/// Reads the tables for the planner's statistics.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn analyze(target: &Target) -> Result<()> {
    let mut session: Session = target.connect().await?;
    session.execute("SET statement_timeout = 0").await.explain("setting the statement's time")?;
    session.execute("ANALYZE").await.explain("reading the tables for the planner's statistics")
}

/// Runs `psql` to its end.
async fn run(mut psql: Command) -> Result<()> {
    psql.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = psql.spawn().map_err(|error| by_program("psql", &error.to_string()))?;
    let complained = collect(child.stderr.take());
    let status = child.wait().await.map_err(|error| by_program("psql", &error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(by_psql(&complained.await.unwrap_or_default()))
}

/// What a program prints that does not connect.
async fn output_of(mut command: Command, program: &str) -> Result<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().await.map_err(|error| by_program(program, &error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(by_program(program, &String::from_utf8_lossy(&output.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_told_from_the_rest_of_the_list() {
        assert!(is_privilege("4711; 0 0 ACL public TABLE events synapse"));
        assert!(is_privilege("4712; 826 16555 DEFAULT ACL public DEFAULT PRIVILEGES FOR TABLES synapse"));
        for other in ["; Archive created", "215; 1259 16394 TABLE public ACL synapse", "216; 1259 1 TABLE public x ACL"]
        {
            assert!(!is_privilege(other), "{other}");
        }
    }
}
