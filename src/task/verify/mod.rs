//! `task verify`: restores a backup into a PostgreSQL that is thrown away afterwards, and looks whether it is whole.
//!
//! The same code fills the database as in a restore ([`super::restore::fill`]), as a role with no more rights, and the same reads
//! it back. What tables need of a superuser the drill's own makes before ([`prepare`]). What is looked at beyond that stands in [`checks`]. An error speaks of the backup or of the drill: [`verdict`] tells them apart. That a
//! backup is whole, or is not, is also marked in the repository, so that the retention knows it.

mod checks;
mod media;
mod prepare;
mod server;
mod synapse;
mod verdict;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::{
    authentication::Whose,
    backup::{
        list::Inventory,
        manifest::{Dump, Manifest},
        marks::Mark,
    },
    restore::{
        Source,
        check::{Checked, check},
        fill::{Filled, Filling, fetch_schema},
    },
    schema::{Contents, Place},
    stopped,
};
use crate::{
    api::verification::MediaCheck,
    bytes,
    contract::{MediaSample, Report, Result, StepResult, TaskError, Verdict, output::progress},
    postgres::{Target, programs::Programs},
    restic::Repository,
    words::{moment, rows_of},
};

use self::prepare::{Prepared, prepare};
pub use self::server::SILENT;

/// Which backup, and into what.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub source: Source,
    /// Directory with the Unix socket of a PostgreSQL of the backup's major, in which a new database is made.
    #[arg(long)]
    pub socket: PathBuf,
    /// The port in the socket's name.
    #[arg(long, default_value_t = crate::contract::pod::SCRATCH_PORT)]
    pub port: u16,
    /// The new database. It is left there.
    #[arg(long, default_value = "drill")]
    pub database: String,
    /// The superuser of that PostgreSQL.
    #[arg(long, default_value = "postgres")]
    pub username: String,
    /// How many seconds that PostgreSQL may take until it answers.
    #[arg(long, default_value_t = 300)]
    pub patience: u64,
    /// How many streams and indexes at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub at_once: u16,
    /// How many of the media are read byte by byte.
    #[arg(long, value_enum, default_value_t)]
    pub media: MediaCheck,
    /// The folder in which the program that runs Synapse waits for a configuration: Synapse is asked, too.
    #[arg(long)]
    pub synapse_place: Option<PathBuf>,
    /// The port of the loopback on which that Synapse is to listen.
    #[arg(long, default_value_t = crate::contract::pod::SYNAPSE_PORT)]
    pub synapse_port: u16,
    /// How many seconds Synapse may take until it answers: it may have to bring the schema further.
    #[arg(long, default_value_t = 1800)]
    pub synapse_patience: u64,
}

/// Runs the task.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Report {
    let mut drill = Drill { name: arguments.source.snapshot.clone(), arguments, manifest: None };
    let done = stop.run_until_cancelled(drill.carry_out()).await.unwrap_or_else(|| Err(stopped()));
    match done {
        Err(error) if verdict::speaks_of_the_backup(&error) => {
            let verdict = Some(drill.verdict(false));
            Report {
                error: Some(error),
                result: Some(StepResult { verdict, ..StepResult::default() }),
                ..Report::default()
            }
        }
        done => done.into(),
    }
}

/// What was found of a backup that is whole.
struct Whole {
    checked: Checked,
    /// For people.
    seen: String,
    /// What of the media is there that the database names.
    media: Option<MediaSample>,
    warnings: Vec<String>,
}

/// How the databases are filled: as in a restore, and with no more rights.
struct Refill<'a> {
    repository: &'a Repository,
    programs: &'a Programs,
    /// As its superuser.
    server: &'a Target,
    scratch: &'a Path,
    at_once: u16,
}

impl Refill<'_> {
    async fn make_roles(&self, dump: &Dump) -> Result<()> {
        let schema = fetch_schema(self.repository, dump, self.scratch).await?;
        let contents = Contents::of(self.programs, self.server, &schema).await?;
        server::make_roles(self.server, &contents.roles()).await
    }

    /// Returns what a restore would warn of, but for rights: whom they are for, this server does not know.
    async fn fill(&self, dump: &Dump, target: &Target) -> Result<Vec<String>> {
        let Self { repository, programs, server, scratch, at_once } = *self;
        let schema = fetch_schema(repository, dump, scratch).await?;
        let contents = Contents::of(programs, server, &schema).await?;
        let Prepared { made, refused } = prepare(&contents, target, &server.to(&target.database)).await?;
        let place = Place::Drill { refused };
        let filling = Filling { repository, dump, target, programs, scratch, at_once, place };
        let filled = filling.fill().await?;
        let by_hand = (!made.is_empty()).then(|| {
            format!(
                "the drill's superuser has made what tables need: {}. A restore is refused until a superuser has made it: see the \
                 condition NotAllRestored",
                made.join(", ")
            )
        });
        Ok(by_hand.into_iter().chain(Filled { rights: Vec::new(), ..filled }.warnings()).collect())
    }
}

struct Drill {
    arguments: Arguments,
    /// The backup's name, once it is known.
    name: String,
    manifest: Option<Manifest>,
}

impl Drill {
    async fn carry_out(&mut self) -> Result<StepResult> {
        let began = Instant::now();
        let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
        let source = &self.arguments.source;
        let repository = source.place.open(scratch.path())?.locking_to_read();
        repository.open(false).await?;
        let restored = self.restore(&repository, scratch.path()).await;
        if restored.as_ref().map_or_else(verdict::speaks_of_the_backup, |_| true) {
            self.mark(&repository, restored.is_ok()).await.or_else(|unmarked| match &restored {
                // What is damaged may be so damaged that nothing can be added. The status knows it.
                Err(_) => Ok(()),
                Ok(_) => Err(unmarked),
            })?;
        }
        let Whole { checked, seen, media, warnings } = restored?;
        Ok(StepResult {
            summary: format!(
                "restored {} of backup {:.8} ({}) in {} s: the rows are as many as were backed up; {seen}",
                rows_of(checked.rows, checked.tables),
                self.name,
                bytes::human(checked.bytes),
                began.elapsed().as_secs()
            ),
            seconds: Some(began.elapsed().as_secs_f64()),
            verdict: Some(self.verdict(true)),
            media,
            warnings,
            ..StepResult::default()
        })
    }

    async fn restore(&mut self, repository: &Repository, scratch: &std::path::Path) -> Result<Whole> {
        let Arguments { source, at_once, database, media: how_many, synapse_place, .. } = &self.arguments;
        if source.snapshot == "latest" {
            let inventory = Inventory::of_server(repository, &source.server_name).await?;
            self.name = inventory.find("latest")?.shown.id.clone();
        }
        // By its name, not from the list: restic leaves out of that what it cannot read.
        let manifest = Manifest::read(repository, &self.name).await?;
        let manifest = self.manifest.insert(manifest);
        checks::is_of(manifest, source)?;
        progress(&format!("restores the backup of {}", moment(manifest.taken_at.0)));

        let server = server::ready(&self.arguments, manifest.newest_postgres()).await?;
        let programs = Programs::of(manifest.newest_postgres()).await?;
        let refill = Refill { repository, programs: &programs, server: &server, scratch, at_once: *at_once };
        refill.make_roles(&manifest.database).await?;
        let target = server::make_database(&server, database).await?;
        let mut warnings = refill.fill(&manifest.database, &target).await?;
        progress("counts the rows and reads them for the planner's statistics");
        let checked = check(&target, Whose::Synapse, &manifest.database, *at_once).await?;
        let mut seen = checks::all(&target, repository, manifest).await?;
        let mut sample = None;
        if let Some(media) = &manifest.media {
            let (of_media, found) = media::check(repository, media, *how_many, &target).await?;
            seen = format!("{seen}, {of_media}");
            sample = found;
        }
        if let Some(service) = &manifest.authentication_service {
            let dump = &service.database;
            let restored = async {
                refill.make_roles(dump).await?;
                let target = server::make_another(&server, &format!("{database}_mas"), &dump.locale).await?;
                warnings.extend(refill.fill(dump, &target).await?);
                check(&target, Whose::AuthenticationService, dump, *at_once).await
            };
            let Checked { rows, tables, .. } =
                restored.await.map_err(|error| Whose::AuthenticationService.tell(error))?;
            seen = format!("{seen}, and {} of the Matrix Authentication Service as well", rows_of(rows, tables));
        }
        if let Some(place) = synapse_place {
            let answered = synapse::ask(&self.arguments, place, &target, &manifest.server_name).await?;
            seen = format!("{seen}; {}", answered.summary);
            warnings.extend(answered.warnings);
        }
        Ok(Whole { checked, seen, media: sample, warnings })
    }

    async fn mark(&self, repository: &Repository, is_whole: bool) -> Result<()> {
        let Some(manifest) = &self.manifest else { return Ok(()) };
        Mark::put(repository, (&manifest.origin, &manifest.server_name), &self.name, is_whole).await
    }

    fn verdict(&self, is_whole: bool) -> Verdict {
        let taken_at = self.manifest.as_ref().map(|manifest| manifest.taken_at.clone());
        Verdict { snapshot: self.name.clone(), taken_at, is_whole }
    }
}
