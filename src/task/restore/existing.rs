//! What stands where the restored database will stand, and whether it may be renamed.

use serde::{Deserialize, Serialize};

use super::{
    mark::Mark,
    server::{Found, Server, find},
};
use crate::{
    api::restore::{Existing, Method},
    contract::{Result, TaskError},
    postgres::{Explain, Session, relations},
    quote,
    synapse::{
        database::{self, SchemaVersion, Tables},
        schema,
    },
    task::arguments::Connection,
};

/// The database by the homeserver's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Present {
    /// There is none.
    Absent,
    /// It holds no tables.
    Empty,
    /// A restore in place has begun to fill it and has not come to its end.
    Unfinished,
    /// A freshly installed Synapse has made its tables, and nobody has used it.
    Unused(Option<i32>),
    /// Somebody's messages may be in it; the version of its schema, if it is Synapse's.
    InUse { users: i64, events: i64, schema: Option<i32> },
}

impl Present {
    /// Looks.
    ///
    /// # Errors
    /// Terminal, `DatabaseSplit` and `TablesMissing`: half a homeserver. Those of PostgreSQL.
    pub async fn look(server: &Server, connection: &Connection, databases: &[Found]) -> Result<Self> {
        let Some(found) = find(databases, &connection.database) else { return Ok(Self::Absent) };
        if found.mark.as_ref().is_some_and(Mark::is_filling) {
            return Ok(Self::Unfinished);
        }
        let mut session = schema::connect(&server.as_owner(connection, &connection.database)?, None).await?;
        let tables = relations::tables(&mut session).await?;
        if tables.is_empty() {
            return Ok(Self::Empty);
        }
        let names: Tables = tables.iter().map(|table| table.name.as_str()).collect();
        let schema = database::schema_version(&mut session, &names).await?;
        let schema = schema.map(|SchemaVersion { version, .. }| version);
        if let Some(missing) = schema.and_then(|_| schema::Missing::of(&names)) {
            let (name, away) = (quote::ident(&found.name), quote::ident(&format!("{}_incomplete", found.name)));
            let advice = format!(
                "With the rest in another database, a restore into this one would not fit it. Nothing was changed. If these tables \
                 are lost, put this database aside by hand, with Synapse down: ALTER DATABASE {name} RENAME TO {away};"
            );
            return Err(missing.refused(&format!("In database {}", found.name), &advice));
        }
        let (users, events) =
            (count(&mut session, &names, "users").await?, count(&mut session, &names, "events").await?);
        // Without Synapse's tables nobody knows what the others are worth.
        Ok(match (schema, users, events) {
            (Some(_), 0, 0) => Self::Unused(schema),
            _ => Self::InUse { users, events, schema },
        })
    }

    /// Whether it may be renamed.
    ///
    /// # Errors
    /// Terminal, `DatabaseInUse`, where the spec refuses it.
    pub fn may_go_aside(self, existing: Existing, database: &str) -> Result<()> {
        match existing {
            Existing::Rename => Ok(()),
            Existing::Refuse => self.is_unused(database, PUT_ASIDE),
        }
    }

    /// Whether nobody has used it.
    ///
    /// # Errors
    /// Terminal, `DatabaseInUse`, with the advice.
    pub fn is_unused(self, database: &str, advice: &str) -> Result<()> {
        let Self::InUse { users, events, .. } = self else { return Ok(()) };
        Err(in_use(database, &[(users, "user"), (events, "event")], advice))
    }

    /// What would become of it, for people.
    pub fn becomes(self, database: &str, method: Method) -> String {
        match (method, self) {
            (Method::InPlace, _) => format!("into {database} itself, which nobody has used"),
            (Method::Beside, Self::Absent) => format!("there is no database {database} yet"),
            (Method::Beside, _) => {
                format!("{database} would be kept as {database}_before_<time>")
            }
        }
    }

    /// Whether the Synapse that has worked here can work with this schema of a `what`, such as a backup.
    ///
    /// # Errors
    /// Terminal, `SchemaTooNew`: Synapse would not start (`SCHEMA_COMPAT_VERSION`, `synapse/storage/schema/__init__.py`).
    pub fn can_be_followed_by(self, schema: SchemaVersion, what: &str) -> Result<()> {
        let (Self::Unused(Some(here)) | Self::InUse { schema: Some(here), .. }) = self else { return Ok(()) };
        let Some(compat) = schema.compat_version.filter(|compat| *compat > here) else { return Ok(()) };
        Err(TaskError::terminal(
            "SchemaTooNew",
            format!(
                "The {what} needs a Synapse that knows schema {compat}, and the one that runs here has made schema {here}: it \
                 would not start. Install the Synapse of the {what} (schema {}), or a newer one, first.",
                schema.version
            ),
        ))
    }
}

/// As far as it matters: a count of all events would take minutes.
const COUNTED: i64 = 1000;

/// Counts the rows of a table, as far as it matters. A table that is not there has none.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn count(session: &mut Session, tables: &Tables<'_>, table: &'static str) -> Result<i64> {
    if !tables.contains(table) {
        return Ok(0);
    }
    let sql = format!("SELECT count(*) FROM (SELECT FROM {table} LIMIT {COUNTED}) AS counted");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(&mut session.connection)
        .await
        .explain("looking whether the database is in use")
}

/// What to do with a database that somebody has used, where it stands in the way.
pub const PUT_ASIDE: &str =
    "To keep it under a name with the time, create a new SynapseRestore with spec.database: {existing: Rename}.";

/// The error of a database that somebody has used.
pub fn in_use(database: &str, holds: &[(i64, &str)], advice: &str) -> TaskError {
    let holds: Vec<String> = holds.iter().map(|(count, what)| at_least(*count, what)).collect();
    TaskError::terminal(
        "DatabaseInUse",
        format!("Database {database} is in use: it has {}. Nothing was changed. {advice}", holds.join(" and ")),
    )
}

fn at_least(count: i64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        COUNTED => format!("{COUNTED} {what}s or more"),
        count => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_somebody_used_is_refused() {
        let used = Present::InUse { users: 1, events: 1000, schema: Some(94) };
        let error = used.may_go_aside(Existing::Refuse, "synapse").unwrap_err();
        assert!(error.message.contains("1 user and 1000 events or more"), "{error}");
        assert_eq!(used.may_go_aside(Existing::Rename, "synapse"), Ok(()));
        for present in [Present::Absent, Present::Empty, Present::Unfinished, Present::Unused(Some(94))] {
            assert_eq!(present.may_go_aside(Existing::Refuse, "synapse"), Ok(()));
        }
    }
}
