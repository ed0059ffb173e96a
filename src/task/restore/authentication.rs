//! The other half of a restore: the database of the Matrix Authentication Service, which comes back with Synapse's.
//!
//! On one server one role and one transaction swap both. On two, its names change first and Synapse's last: so the mark on
//! Synapse's database says that both have changed, and what was cut off in between is seen on this one.

use std::path::Path;

use super::{
    check::{Checked, check},
    doubt,
    existing::{PUT_ASIDE, count, in_use},
    fill::Filling,
    mark::{Mark, State, name_aside, name_beside, of_service},
    server::{Administrator, Found, Rename, Server, find},
    source::Chosen,
};
use crate::{
    api::restore::Existing,
    bytes,
    contract::{RestoredAuthentication, Result, TaskError, output::progress},
    postgres::{disk, programs::Programs, relations},
    synapse::{authentication, database::Tables},
    task::{
        arguments::Connection,
        authentication::{AuthenticationService, Whose},
        backup::manifest::{AuthenticationDump, Dump, Manifest},
        schema::place_beside,
    },
    words::rows_of,
};

const OF_SERVICE: Whose = Whose::AuthenticationService;

/// The database's server, and whether Synapse's is on it too.
pub struct Half {
    pub connection: Connection,
    pub server: Server,
    pub is_on_one_server: bool,
}

/// What it is filled from.
#[derive(Clone, Copy)]
pub struct Refill<'a> {
    pub chosen: &'a Chosen,
    pub dump: &'a Dump,
    /// A directory for the schema.
    pub scratch: &'a Path,
    /// How many streams and indexes at once.
    pub at_once: u16,
}

/// The half that belongs to a backup.
///
/// # Errors
/// Terminal, `AuthenticationNotNamed` and `AuthenticationNotInBackup`: one of the two databases alone would go back in time.
pub fn both_or_none<'a>(
    service: Option<&'a AuthenticationService>,
    manifest: &'a Manifest,
) -> Result<Option<(&'a AuthenticationService, &'a AuthenticationDump)>> {
    match (service, &manifest.authentication_service) {
        (None, None) => Ok(None),
        (Some(service), Some(dump)) => Ok(Some((service, dump))),
        (None, Some(_)) => Err(not_named()),
        (Some(_), None) => Err(TaskError::terminal(
            "AuthenticationNotInBackup",
            "The homeserver has a Matrix Authentication Service, whose database is not in this backup: Synapse would go back in \
             time and the sessions of its users would not. Choose a backup that was made since \
             spec.matrixAuthenticationService.postgres is set (authenticationApartSeconds in status.snapshots), or bring both \
             databases back by hand, from one moment.",
        )),
    }
}

/// The backup has the service's database, and nobody says where it goes.
pub fn not_named() -> TaskError {
    TaskError::terminal(
        "AuthenticationNotNamed",
        "The database of a Matrix Authentication Service comes with this one: Synapse alone would go back in time, and the \
         sessions of its users would not. Set spec.matrixAuthenticationService.postgres of the Synapse object to where it is \
         to be.",
    )
}

/// The role is that of Synapse's half, and so is the field that names it.
fn by_one_role(error: TaskError) -> TaskError {
    let why = "The database of the Matrix Authentication Service is on the same server: one role swaps both.";
    TaskError { message: format!("{} {why}", error.message), ..error }
}

impl Half {
    /// Connects as the role that may rename: on one server that of Synapse's half, for one transaction has one role.
    ///
    /// # Errors
    /// Terminal, `CannotCreateDatabases`, with what to grant. What PostgreSQL says, and of which database.
    pub async fn connect(
        of: &Connection,
        administrator: &Administrator,
        synapse: &mut Server,
        service: &AuthenticationService,
    ) -> Result<Self> {
        let connection = service.connection(of);
        let own = administrator.of_service(service);
        let identity = synapse.identity().await?;
        let opened = async {
            let mut server = Server::open(&connection, &own).await?;
            let is_on_one_server = server.identity().await? == identity;
            Ok((server, is_on_one_server))
        };
        let (mut server, is_on_one_server) = opened.await.map_err(|error| OF_SERVICE.tell(error))?;
        if is_on_one_server {
            server = server.in_the_role_of(synapse).await?;
        }
        let may = server.check_rights().await;
        may.map_err(|error| if is_on_one_server { by_one_role(error) } else { OF_SERVICE.tell(error) })?;
        Ok(Self { connection, server, is_on_one_server })
    }

    /// Whether what is there may be renamed, and whether the service that has worked here can work with the backup.
    ///
    /// # Errors
    /// Terminal: `DatabaseInUse`, `SchemaTooNew`, `LocaleMissing`, `PostgresTooOld`, `CannotEndSessions`.
    pub async fn accepts(&mut self, existing: Existing, dump: &AuthenticationDump) -> Result<()> {
        let databases = self.server.databases().await?;
        let here = self.may_go_aside(existing, &databases).await?;
        self.server.may_rename(&self.connection.database).await?;
        self.server.may_be_put_aside(&self.connection.database).await?;
        self.server.tablespace_of(&self.connection.database).await?;
        self.server.can_end_sessions(&self.connection.database).await?;
        if let Some(here) = here.filter(|here| *here < dump.migration) {
            return Err(TaskError::terminal(
                "SchemaTooNew",
                format!(
                    "The backup's service has made migration {}, and the one that runs here knows no newer one than {here}: it \
                     would not start. Install the release of the backup, or a newer one, first.",
                    dump.migration
                ),
            ));
        }
        dump.database.fits(self.server.version())?;
        let locale = &dump.database.locale;
        if !locale.is_known(&mut self.server.target.connect().await?).await? {
            return Err(TaskError::terminal(
                "LocaleMissing",
                format!(
                    "The database that was backed up is {locale}, and this PostgreSQL lists no such locale. Install it where \
                     PostgreSQL runs, then, as a superuser: SELECT pg_import_system_collations('pg_catalog');"
                ),
            ));
        }
        Ok(())
    }

    /// The newest migration of the database that is there, if it is the service's.
    async fn may_go_aside(&self, existing: Existing, databases: &[Found]) -> Result<Option<i64>> {
        let database = &self.connection.database;
        if find(databases, database).is_none() {
            return Ok(None);
        }
        let mut session = self.server.as_owner(&self.connection, database)?.connect().await?;
        let tables = relations::tables(&mut session).await?;
        let names: Tables = tables.iter().map(|table| table.name.as_str()).collect();
        let newest = authentication::newest_migration(&mut session, &names).await?;
        let users = count(&mut session, &names, "users").await?;
        // Without the service's tables nobody knows what the others are worth.
        let is_unused = names.is_empty() || newest.is_some() && users == 0;
        match is_unused || existing == Existing::Rename {
            true => Ok(newest),
            false => Err(in_use(database, &[(users, "user")], PUT_ASIDE)),
        }
    }

    /// Fills a database beside the one that serves, reads it back, and marks it as whole. Says what was done, and what is to be
    /// told to people.
    ///
    /// # Errors
    /// As those of Synapse's half.
    pub async fn restore(&mut self, of: &Mark, refill: Refill<'_>) -> Result<(String, Vec<String>)> {
        let Refill { chosen, dump, scratch, at_once } = refill;
        let mark = Mark { whose: OF_SERVICE, with_authentication: false, ..of.clone() };
        let name = self.name_beside();
        self.server.create(&name, &self.connection.database, &dump.locale, &mark).await?;
        progress(&format!("made database {name} beside {}", self.connection.database));
        let target = self.server.as_owner(&self.connection, &name)?;
        let programs = Programs::of(self.server.version()).await?;
        let place = place_beside(OF_SERVICE, &dump.locale, self.server.version());
        let (repository, target, programs) = (&chosen.repository, &target, &programs);
        let filling = Filling { repository, dump, target, programs, scratch, at_once, place };
        let filled = async {
            let warnings = filling.fill().await?.warnings();
            Ok((warnings, check(target, OF_SERVICE, dump, at_once).await?))
        };
        let (warnings, checked) = disk::watched(self.connection.data_volume.as_deref(), filled).await?;
        let Checked { rows, tables, bytes } = checked;
        self.server.mark(&name, &mark.now(State::Whole)).await?;
        let summary = format!(
            " and {} of the Matrix Authentication Service into {name} ({}), beside {},",
            rows_of(rows, tables),
            bytes::human(bytes),
            self.connection.database
        );
        Ok((summary, warnings))
    }

    /// Whether an attempt of this operation has filled it.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn is_whole(&mut self) -> Result<bool> {
        let databases = self.server.databases().await?;
        Ok(self.find(&databases, &[State::Whole]).is_some())
    }

    /// As [`Server::drop_attempts`].
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn drop_attempts(&mut self) -> Result<()> {
        let dropped = self.server.drop_attempts(&self.connection).await;
        dropped.map(drop).map_err(|error| self.tell(error))
    }

    /// Says of an error that it was here.
    pub fn tell(&self, error: TaskError) -> TaskError {
        OF_SERVICE.tell(error)
    }

    /// The name under which it is filled.
    pub fn name_beside(&self) -> String {
        of_service(&name_beside(&self.connection.operation, self.connection.attempt))
    }

    /// The database of this operation in one of these states.
    pub fn find<'a>(&self, databases: &'a [Found], states: &[State]) -> Option<(&'a Found, &'a Mark)> {
        databases.iter().find_map(|found| {
            let mine = |mark: &&Mark| {
                mark.operation == self.connection.operation && mark.whose == OF_SERVICE && states.contains(&mark.state)
            };
            Some((found, found.mark.as_ref().filter(mine)?))
        })
    }

    /// What gives the restored database its name. Nothing: it has it.
    ///
    /// # Errors
    /// Terminal: `RestoredDatabaseGone`, `DatabaseInUse`. Those of PostgreSQL.
    pub async fn renames(&mut self, existing: Existing) -> Result<(Vec<Rename>, Vec<String>)> {
        let database = self.connection.database.clone();
        let databases = self.server.databases().await?;
        if self.find(&databases, &[State::InPlace]).is_some() {
            return Ok((Vec::new(), Vec::new()));
        }
        let Some((new, mark)) = self.find(&databases, &[State::Whole, State::TakenBack]) else {
            return Err(doubt::gone());
        };
        self.may_go_aside(existing, &databases).await?;
        self.server.may_be_put_aside(&database).await?;
        let present = find(&databases, &database);
        let aside = present.map(|_| name_aside(&database, jiff::Timestamp::now()));
        let earlier = present.and_then(|found| found.mark.as_ref()).map(Mark::history).unwrap_or_default();
        let comment = present.and_then(Found::own_comment);
        let mark = Mark { earlier, replaced: aside.clone(), comment, ..mark.now(State::InPlace) };
        let mut renames = Vec::new();
        let mut notes = Vec::new();
        if let Some(aside) = aside {
            notes = self.server.copy_settings(&self.connection, &database, &new.name).await?;
            renames.push((database.clone(), aside, None));
        }
        renames.push((new.name.clone(), database, Some(mark)));
        Ok((renames, notes))
    }

    /// What gives the old database its name back. Nothing: it has it.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn renames_back(&mut self) -> Result<Vec<Rename>> {
        let databases = self.server.databases().await?;
        let Some((found, mark)) = self.find(&databases, &[State::InPlace]) else { return Ok(Vec::new()) };
        let away = (found.name.clone(), self.name_beside(), Some(mark.now(State::TakenBack)));
        let old = mark.replaced.as_ref().filter(|old| find(&databases, old).is_some());
        Ok([away].into_iter().chain(old.map(|old| (old.clone(), found.name.clone(), None))).collect())
    }

    /// What is in its place.
    ///
    /// # Errors
    /// Transient, `SwapUnknown`. Those of PostgreSQL.
    pub async fn restored(&mut self) -> Result<RestoredAuthentication> {
        let databases = self.server.databases().await?;
        let Some((found, mark)) = self.find(&databases, &[State::InPlace]) else {
            return Err(OF_SERVICE.tell(doubt::unknown()));
        };
        let kept = mark.replaced.as_ref().and_then(|name| find(&databases, name));
        Ok(RestoredAuthentication {
            database: found.name.clone(),
            kept: mark.replaced.clone(),
            kept_size: kept.map(|kept| bytes::human(kept.bytes)),
        })
    }
}
