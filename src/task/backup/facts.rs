//! What is true of a database that is backed up.

use crate::{
    postgres::{Session, relations},
    synapse::database::{self, SchemaVersion, Tables},
    task::report::{Result, TaskError},
};

/// What is true of the database at the snapshot's moment.
pub struct Facts {
    pub schema_version: SchemaVersion,
    pub postgres_version: i32,
    /// Encoding, collation and ctype.
    pub locale: (String, String, String),
    /// Size of the database.
    pub bytes: i64,
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// Terminal: `NoSynapseSchema`, or `ServerNameDiffers` where the users are of another homeserver.
    pub async fn read(session: &mut Session, server_name: &str) -> Result<Self> {
        let tables = relations::tables(session).await?;
        let names: Tables = tables.iter().map(|table| table.name.as_str()).collect();
        let Some(schema_version) = database::schema_version(session, &names).await? else {
            return Err(TaskError::terminal(
                "NoSynapseSchema",
                "There is no schema of Synapse in this database: is postgres.database right?",
            ));
        };
        match database::server_name(session, &names).await? {
            Some(found) if found != server_name => {
                return Err(TaskError::terminal(
                    "ServerNameDiffers",
                    format!(
                        "The users in this database are of {found}, not of {server_name}: is postgres.database right?"
                    ),
                ));
            }
            _ => {}
        }
        let locale = relations::locale(session).await?;
        Ok(Self {
            schema_version,
            postgres_version: session.version,
            locale,
            bytes: relations::database_bytes(session).await?,
        })
    }
}
