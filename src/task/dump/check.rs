//! Whether what a dump brought is this homeserver's database, and all of it: nobody has said what should be in it.

use std::collections::BTreeSet;

use super::Wanted;
use crate::{
    contract::{Result, TaskError},
    postgres::{Explain, Session, Target, relations},
    synapse::{
        database::{self, SchemaVersion, Tables},
        schema,
    },
    task::restore::Present,
};

/// As many of what is missing are named.
const NAMED: usize = 5;

/// What a dump is refused for, as far as it is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// It makes no table.
    pub has_rows_alone: bool,
    /// No version of Synapse's schema is in it.
    pub has_no_version: bool,
    pub missing: Option<schema::Missing>,
    /// A user of another homeserver.
    pub foreign_user: Option<String>,
    pub schema: Option<SchemaVersion>,
    pub has_no_unique_index: bool,
}

impl Flaws {
    /// Whether the dump can take the place of what is there.
    ///
    /// # Errors
    /// Terminal: `NoSynapseSchema`, `DatabaseSplit`, `TablesMissing`, `ServerNameDiffers`, `SchemaTooNew`, `DumpIncomplete`.
    pub fn refuse(&self, wanted: &Wanted, present: Present) -> Result<()> {
        if self.has_rows_alone {
            return Err(TaskError::terminal(
                "DumpIncomplete",
                "The dump has rows and makes no table: was it made with --section or --data-only? Nothing was replaced.",
            ));
        }
        if self.has_no_version {
            return Err(TaskError::terminal(
                "NoSynapseSchema",
                "What the dump holds is no database of Synapse: it has no table schema_version with a version in it. Nothing was \
                 replaced.",
            ));
        }
        if let Some(missing) = &self.missing {
            return Err(missing.refused("In the dump", "Nothing was replaced."));
        }
        if let Some(user) = &self.foreign_user {
            return Err(TaskError::terminal(
                "ServerNameDiffers",
                format!(
                    "The dump has user {user}: it is of another homeserver than {}, and a homeserver cannot change its name. \
                     Nothing was replaced.",
                    wanted.server_name
                ),
            ));
        }
        if let Some(schema) = self.schema {
            wanted.terms.accept(schema, present, "dump")?;
        }
        if self.has_no_unique_index {
            return Err(TaskError::terminal(
                "DumpIncomplete",
                "The dump has tables and not one unique index: was it made with --section or --data-only? Nothing was replaced.",
            ));
        }
        Ok(())
    }
}

/// Looks at what Synapse would look at, and at what it would miss: at the end, because [`super::homeserver`] does not see all of every
/// dump before.
///
/// Returns what people should know.
///
/// # Errors
/// As [`Flaws::refuse`]. Those of PostgreSQL.
pub async fn is_of(target: &Target, wanted: &Wanted, present: Present) -> Result<Vec<String>> {
    let mut session = schema::connect(target, None).await?;
    let tables = relations::tables(&mut session).await?;
    let names: Tables = tables.iter().map(|table| table.name.as_str()).collect();
    let schema = database::schema_version(&mut session, &names).await?;
    let missing = schema::Missing::of(&names);
    // Another program's users may have no such column.
    let foreign_user = match (schema, &missing) {
        (Some(_), None) => database::foreign_user(&mut session, &names, &wanted.server_name).await?,
        _ => None,
    };
    let flaws = Flaws {
        has_rows_alone: false,
        has_no_version: schema.is_none(),
        missing,
        foreign_user,
        schema,
        has_no_unique_index: unique_indexes(&mut session).await?.is_empty(),
    };
    flaws.refuse(wanted, present)?;
    let mut notes = Vec::new();
    if database::server_name(&mut session, &names).await?.is_none() {
        notes.push("nobody can tell whose the dump is: there is no user in it".to_owned());
    }
    Ok(notes)
}

/// What the database that is replaced has, and the restored one has not, where both are of the same schema. Told and not refused:
/// somebody may have added a table of his own.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn lacks(restored: &Target, replaced: &Target) -> Result<Option<String>> {
    let (mut new, mut old) = (schema::connect(restored, None).await?, schema::connect(replaced, None).await?);
    let (here, there) = (relations::tables(&mut new).await?, relations::tables(&mut old).await?);
    let tables =
        |tables: &[relations::Table]| -> BTreeSet<String> { tables.iter().map(|table| table.name.clone()).collect() };
    let (here, there) = (tables(&here), tables(&there));
    let (version, version_there) = (version(&mut new, &here).await?, version(&mut old, &there).await?);
    if version != version_there {
        return Ok(None);
    }
    let (indexes, indexes_there) = (unique_indexes(&mut new).await?, unique_indexes(&mut old).await?);
    let missing: Vec<String> = there.difference(&here).chain(indexes_there.difference(&indexes)).cloned().collect();
    let more = missing.len().saturating_sub(NAMED);
    let named = missing.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Ok((!missing.is_empty()).then(|| format!("the dump lacks what the database before it has: {named}{and_more}")))
}

/// Tables that the dump makes and says nothing more of: `pg_dump --inserts` writes nothing for a table without rows. Not partitions: their
/// rows may have come by the table that they belong to.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn others(target: &Target, tables: impl Iterator<Item = &String>) -> Result<Vec<String>> {
    let mut session = schema::connect(target, None).await?;
    sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND NOT c.relispartition AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
             AND n.nspname !~ '^pg_(toast|temp)' \
             AND NOT EXISTS (SELECT FROM unnest($1) known(name) WHERE known.name::regclass = c.oid) \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')",
    )
    .bind(tables.cloned().collect::<Vec<String>>())
    .fetch_all(&mut session.connection)
    .await
    .explain("listing the tables of the dump")
}

async fn version(session: &mut Session, tables: &BTreeSet<String>) -> Result<Option<SchemaVersion>> {
    database::schema_version(session, &tables.iter().map(String::as_str).collect()).await
}

async fn unique_indexes(session: &mut Session) -> Result<BTreeSet<String>> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE i.indisunique AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain("listing the unique indexes")?;
    Ok(names.into_iter().collect())
}
