//! What a server has that a restore may need, and what the restore's role may do there.

use std::collections::{BTreeMap, BTreeSet};

use super::contents::Contents;
use crate::{
    contract::TaskError,
    postgres::{Explain, Result, Session, Target},
};

/// An extension that a server has the files of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    /// Its owner need not be a superuser: it is trusted, or needs none.
    pub by_the_owner: bool,
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The role that restores.
    pub role: String,
    /// It is a superuser.
    pub is_superuser: bool,
    pub extensions: BTreeMap<String, Available>,
    pub roles: BTreeSet<String>,
    /// PostgreSQL's own collations that a database in UTF-8 can use.
    pub collations: BTreeSet<String>,
    /// New collations that the server refused, by their statements.
    pub refused_collations: BTreeSet<String>,
    /// What the database has before anything is restored: see [`present`].
    pub present: BTreeSet<String>,
}

const DOING: &str = "looking what the server has for a restore";

impl Facts {
    /// Those of a session's server, for a restore by this role. Of the database that is to be filled nothing is known yet: it is made
    /// from `template0`.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn of_server(session: &mut Session, role: &str) -> Result<Self> {
        let extensions: Vec<(String, bool)> = sqlx::query_as(
            "SELECT e.name::text, bool_or(trusted OR NOT superuser) FROM pg_available_extensions e \
             JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version GROUP BY 1",
        )
        .fetch_all(&mut session.connection)
        .await
        .explain(DOING)?;
        let names = |kind: &str, names: Vec<(String, String)>| -> BTreeSet<String> {
            names.into_iter().filter(|(of, _)| of == kind).map(|(_, name)| name).collect()
        };
        let all: Vec<(String, String)> = sqlx::query_as(
            "SELECT 'role', rolname::text FROM pg_roles \
             UNION ALL SELECT 'collation', collname FROM pg_collation \
                 WHERE collnamespace = 'pg_catalog'::regnamespace AND collencoding IN (-1, pg_char_to_encoding('UTF8')) \
             UNION ALL SELECT 'superuser', rolname FROM pg_roles WHERE rolname = $1 AND rolsuper",
        )
        .bind(role)
        .fetch_all(&mut session.connection)
        .await
        .explain(DOING)?;
        Ok(Self {
            role: role.to_owned(),
            is_superuser: all.iter().any(|(kind, _)| kind == "superuser"),
            extensions: extensions.into_iter().map(|(name, by_the_owner)| (name, Available { by_the_owner })).collect(),
            collations: names("collation", all.clone()),
            roles: names("role", all),
            ..Self::default()
        })
    }

    /// The same for the session's own database, which is to be filled: what is in it already is not made again.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn here(session: &mut Session, role: &str) -> Result<Self> {
        let mut facts = Self::of_server(session, role).await?;
        facts.present = present(session).await?;
        let may_create: bool = sqlx::query_scalar("SELECT has_database_privilege($1, current_database(), 'CREATE')")
            .bind(role)
            .fetch_one(&mut session.connection)
            .await
            .explain(DOING)?;
        if !may_create {
            facts.extensions.values_mut().for_each(|extension| extension.by_the_owner = false);
        }
        Ok(facts)
    }

    /// Tries the collations that a dump makes, without making them: whether a locale is there only the machine knows.
    ///
    /// # Errors
    /// Those of PostgreSQL, but for what it says of a locale.
    pub async fn try_collations(&mut self, session: &mut Session, contents: &Contents) -> Result<()> {
        let collations = contents.entries.iter().filter(|entry| entry.kind == "COLLATION");
        for statement in collations.flat_map(|entry| &entry.statements).map(|statement| &statement.text) {
            let Some((_, definition)) = statement.split_once('(') else { continue };
            let trial =
                format!("BEGIN READ WRITE; CREATE COLLATION pg_temp.synapse_keeper_trial ({definition}; ROLLBACK");
            if let Err(error) = session.execute(&trial).await {
                let refused = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
                session.execute("ROLLBACK").await.explain(DOING)?;
                // Who may not make temporary objects learns nothing.
                if refused.is_some_and(|code| code != "42501") {
                    self.refused_collations.insert(statement.clone());
                }
            }
        }
        Ok(())
    }
}

/// What is in the session's database of which a superuser may have put something there before: as [`super::choice`] names entries.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn present(session: &mut Session) -> Result<BTreeSet<String>> {
    let present: Vec<String> = sqlx::query_scalar(
        "SELECT 'extension ' || extname FROM pg_extension \
         UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('public', 'information_schema') \
         UNION ALL SELECT 'procedural language ' || lanname FROM pg_language \
         UNION ALL SELECT 'foreign data wrapper ' || fdwname FROM pg_foreign_data_wrapper \
         UNION ALL SELECT 'server ' || srvname FROM pg_foreign_server \
         UNION ALL SELECT 'access method ' || amname FROM pg_am \
         UNION ALL SELECT format('operator class %s.%s', nspname, opcname) FROM pg_opclass JOIN pg_namespace n ON n.oid = opcnamespace \
         UNION ALL SELECT format('operator family %s.%s', nspname, opfname) FROM pg_opfamily JOIN pg_namespace n ON n.oid = opfnamespace \
         UNION ALL SELECT format('collation %s.%s', nspname, collname) FROM pg_collation JOIN pg_namespace n ON n.oid = collnamespace \
         UNION ALL SELECT format('type %s.%s', nspname, typname) FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace \
             WHERE typtype IN ('b', 'e', 'r') AND nspname NOT IN ('pg_catalog', 'information_schema') \
         UNION ALL SELECT format('domain %s.%s', nspname, typname) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
             WHERE typtype = 'd' AND nspname NOT IN ('pg_catalog', 'information_schema') \
         UNION ALL SELECT format('function %s.%s(%s)', nspname, proname, oidvectortypes(proargtypes)) \
             FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace \
             WHERE nspname NOT IN ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)?;
    Ok(present.into_iter().collect())
}

/// Names the event triggers of a database in an error from there: one may have refused what was done, and need not say who it is.
pub async fn naming_event_triggers(target: &Target, error: TaskError) -> TaskError {
    let triggers = async { event_triggers(&mut target.connect().await?).await };
    match triggers.await {
        Ok(triggers) if !triggers.is_empty() => TaskError {
            message: format!("{} Event triggers fire in this database: {}.", error.message, triggers.join(", ")),
            ..error
        },
        _ => error,
    }
}

/// The event triggers that fire in the session's database, for people. Each may refuse what a restore does.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn event_triggers(session: &mut Session) -> Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT format('%I (on %s, function %s, of role %I)', evtname, evtevent, evtfoid::regproc, pg_get_userbyid(evtowner)) \
         FROM pg_event_trigger WHERE evtenabled IN ('O', 'A') ORDER BY evtname",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain("listing the event triggers")
}
