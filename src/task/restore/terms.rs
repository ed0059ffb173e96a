//! On what terms a database is made beside another and takes its place, wherever its rows come from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    accepts::accepts,
    existing::Present,
    schema,
    server::{Administrator, Found, Server, find},
};
use crate::{
    api::restore::{Existing, Method},
    bytes,
    contract::{Result, TaskError},
    postgres::{
        Session, check_server,
        disk::{self, Wal},
        lock,
        programs::Programs,
        sessions,
    },
    synapse::database::SchemaVersion,
    task::arguments::Connection,
    words::moment,
};

/// What a restore is told of the server and of the database that is there.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    #[command(flatten)]
    #[serde(flatten)]
    pub administrator: Administrator,
    /// Namespace and name of the restore: the same name restores nothing a second time. Nothing: a restore by hand.
    #[arg(long, default_value = "")]
    pub restore: String,
    /// What becomes of a database that somebody has used.
    #[arg(long, value_enum, default_value_t)]
    pub existing: Existing,
    /// How much disk is free for PostgreSQL, such as 20Gi, where its volume is not mounted.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_space: Option<String>,
    /// The schema that the Synapse which will run knows (its SCHEMA_VERSION). Without it the one that has worked here is taken
    /// for it.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synapse_schema: Option<i32>,
}

/// A server on which a restore may begin.
pub struct Fit {
    pub server: Server,
    pub present: Present,
    pub programs: Programs,
    pub wal: Wal,
    /// It holds the task's lock in the homeserver's database. `None`: there is none, or the session of the server holds it.
    pub lock: Option<Session>,
    /// What is allowed but worth a look, for people.
    pub warnings: Vec<String>,
}

/// Nobody knows which Synapse will run.
const UNASKED: &str = "The image of Synapse was not asked which schema it knows, or did not say it: the schema of the database \
                       that is here was compared instead. Set spec.image of the Synapse object.";

impl Terms {
    /// The same, with what the image of the homeserver's own Synapse has written into a file.
    pub fn having_heard(&self, file: Option<&Path>) -> Self {
        Self { synapse_schema: self.synapse_schema.or_else(|| schema::told(file?)), ..self.clone() }
    }

    /// What the image has said, for the step; or a warning that it has not.
    ///
    /// # Errors
    /// The warning.
    pub fn what_synapse_said(&self) -> std::result::Result<String, String> {
        self.synapse_schema.map(schema::as_argument).ok_or_else(|| UNASKED.to_owned())
    }

    /// Whether the Synapse that will run starts on a database of this schema, of a `what`, such as a backup.
    ///
    /// # Errors
    /// Terminal, `SchemaTooNew`.
    pub fn accept(&self, schema: SchemaVersion, present: Present, what: &str) -> Result<()> {
        match self.synapse_schema {
            Some(known) => schema::is_known(schema, known, what),
            None => present.can_be_followed_by(schema, what),
        }
    }

    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = self.administrator.to_args();
        args.push(format!("--restore={}", self.restore));
        args.push(format!("--existing={}", self.existing));
        args.extend(self.free_space.iter().map(|space| format!("--free-space={space}")));
        args.extend(self.synapse_schema.map(schema::as_argument));
        args
    }

    /// Looks at the server and at what is there. Changes nothing.
    ///
    /// # Errors
    /// The first thing that a restore would fail for, wherever its rows come from.
    pub async fn fit(&self, connection: &Connection, method: Method) -> Result<Fit> {
        let mut server = match method {
            Method::Beside => Server::connect(connection, &self.administrator).await?,
            Method::InPlace => Server::connect_in_place(connection, &self.administrator).await?,
        };
        let databases = server.databases().await?;
        refuse_a_second_time(connection, self, &databases)?;
        let lock = hold(&mut server, connection, method, &databases).await?;
        let mut session = server.target.connect().await?;
        let mut second = server.target.connect().await?;
        check_server(&mut session, &mut second).await?;
        let programs = Programs::of(server.version()).await?;
        let present = Present::look(&server, connection, &databases).await?;
        match method {
            Method::Beside => {
                present.may_go_aside(self.existing, &connection.database)?;
                server.may_rename(&connection.database).await?;
                server.may_be_put_aside(&connection.database).await?;
                server.can_end_sessions(&connection.database).await?;
            }
            Method::InPlace => {
                server.no_prepared_transactions(&connection.database).await?;
                accepts(&mut session, connection, present).await?;
            }
        }
        let tablespace = match method {
            Method::Beside => server.tablespace_of(&connection.database).await?,
            Method::InPlace => None,
        };
        let warnings = tablespace.map(|name| {
            format!(
                "{} is in tablespace {name}, and so will be the new database. Free space was looked up, or stated, for the data \
                 folder: make sure that the disk of that tablespace has as much",
                connection.database
            )
        });
        let wal = disk::wal(&mut session).await?;
        Ok(Fit { server, present, programs, wal, lock, warnings: warnings.into_iter().collect() })
    }

    /// Disk that is free for PostgreSQL, in bytes.
    ///
    /// # Errors
    /// Terminal: `FreeSpaceUnknown`, `DiskTooSmall`.
    pub fn free_space(&self, connection: &Connection, needed: i64) -> Result<i64> {
        let (free, told, needed) = match (&connection.data_volume, &self.free_space) {
            (Some(volume), _) => {
                let needed = needed.saturating_add(disk::kept_free(volume)?);
                (disk::free_bytes(volume)?, "on the volume of postgres.dataVolume", needed)
            }
            (None, Some(stated)) => {
                let stated = bytes::parse(stated)
                    .map_err(|error| TaskError::terminal("InvalidStep", format!("database.freeSpace: {error}.")))?;
                (stated, "by spec.database.freeSpace", needed)
            }
            (None, None) => {
                return Err(TaskError::terminal(
                    "FreeSpaceUnknown",
                    format!(
                        "The new database and its WAL need about {} beside the present files. How much disk is free for \
                         PostgreSQL is not known: set postgres.dataVolume of the Synapse object to the claim of its data, or \
                         create a new SynapseRestore with a figure in spec.database.freeSpace.",
                        bytes::human(needed)
                    ),
                ));
            }
        };
        if free < needed {
            return Err(TaskError::terminal(
                "DiskTooSmall",
                format!(
                    "The new database and its WAL need about {} beside the present files, and {} is free {told}. Nothing was \
                     changed: make the volume larger.",
                    bytes::human(needed),
                    bytes::human(free)
                ),
            ));
        }
        Ok(free)
    }
}

/// One task works on a database: what is restored beside it will take its place.
///
/// # Errors
/// Transient, `DatabaseBusy`, with the holder. Those of PostgreSQL.
async fn hold(
    server: &mut Server,
    connection: &Connection,
    method: Method,
    databases: &[Found],
) -> Result<Option<Session>> {
    if method == Method::Beside {
        return server.locked(connection, databases).await;
    }
    let application = server.target.application.clone();
    sessions::end_earlier(server.session(), &application).await?;
    lock::acquire(server.session()).await?;
    Ok(None)
}

/// Argo CD makes deleted objects again, Velero brings them back without their status.
fn refuse_a_second_time(connection: &Connection, terms: &Terms, databases: &[Found]) -> Result<()> {
    let mark = find(databases, &connection.database).and_then(|found| found.mark.as_ref());
    let again = mark.filter(|mark| {
        !terms.restore.is_empty() && mark.is_of(&terms.restore) && mark.operation != connection.operation
    });
    let Some(mark) = again else { return Ok(()) };
    Err(TaskError::terminal(
        "AlreadyRestored",
        format!(
            "Database {} came to be by a restore of this name before ({}, restored at {}). The same name restores nothing a \
             second time, also if its object was deleted and made again: take a new name.",
            connection.database,
            mark.what(),
            moment(mark.at)
        ),
    ))
}
