//! What is true of the databases that are backed up.

use crate::{
    contract::{Result, TaskError},
    postgres::{Locale, Session, relations},
    synapse::{
        authentication,
        database::{self, SchemaVersion, Tables},
        schema,
    },
};

/// What is true of a database at the snapshot's moment, whosever it is.
pub struct Facts {
    pub postgres_version: i32,
    pub locale: Locale,
    /// Its size.
    pub bytes: i64,
    /// Where Synapse's tables are.
    pub schema: Option<String>,
}

impl Facts {
    async fn read(session: &mut Session) -> Result<Self> {
        Ok(Self {
            postgres_version: session.version,
            locale: Locale::read(session).await?,
            bytes: relations::database_bytes(session).await?,
            schema: None,
        })
    }

    /// Those of Synapse's database.
    ///
    /// # Errors
    /// Terminal: `NoSynapseSchema`; `DatabaseSplit` and `TablesMissing` where it is not whole; `ServerNameDiffers` where the users
    /// are of another homeserver.
    pub async fn of_synapse(session: &mut Session, server_name: &str) -> Result<(Self, SchemaVersion)> {
        let schema = schema::enter(session, None).await?.map(|schema| schema.name);
        let tables = relations::tables(session).await?;
        let names: Tables = tables.iter().map(|table| table.name.as_str()).collect();
        let Some(schema_version) = database::schema_version(session, &names).await? else {
            let is = match authentication::is_it(&names) {
                true => "This is the database of the Matrix Authentication Service, not of Synapse",
                false => "There is no schema of Synapse in this database",
            };
            return Err(TaskError::terminal("NoSynapseSchema", format!("{is}: is postgres.database right?")));
        };
        if let Some(missing) = schema::Missing::of(&names) {
            return Err(missing.refused("In this database", "A backup of it would not bring a homeserver back."));
        }
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
        Ok((Self { schema, ..Self::read(session).await? }, schema_version))
    }

    /// Those of the database of the Matrix Authentication Service, with its newest migration.
    ///
    /// # Errors
    /// Terminal: `NoAuthenticationSchema`.
    pub async fn of_authentication_service(session: &mut Session) -> Result<(Self, i64)> {
        let tables = relations::tables(session).await?;
        let names: Tables = tables.iter().map(|table| table.name.as_str()).collect();
        if let Some(migration) = authentication::newest_migration(session, &names).await? {
            return Ok((Self::read(session).await?, migration));
        }
        // By the names alone: the service's role may not look into Synapse's tables.
        let is = match (names.is_empty(), names.contains("schema_version")) {
            (true, _) => "There is no table in this database: has the service ever started",
            (_, true) => "This is Synapse's database, not the service's: is postgres.database right",
            (_, false) => "There is no schema of the service in this database: is postgres.database right",
        };
        Err(TaskError::terminal("NoAuthenticationSchema", format!("{is}?")))
    }
}
