//! Where Synapse's tables are.
//!
//! Synapse names them without a schema: it uses the one to which the search path of its sessions leads. A setting of its role, of
//! the database, or of homeserver.yaml (`database.args.options`) decides that, and the last one is not seen here. So the
//! schema is the one that has the tables. Where a session does not find them, Synapse takes the database for an empty one and
//! makes a second set of tables.

use super::database;
use crate::{
    contract::TaskError,
    postgres::{Explain, Result, Session, Target},
    quote,
};

const DOING: &str = "looking for the schema with Synapse's tables";

/// A schema with Synapse's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    pub name: String,
    /// The search path of the role leads to it.
    pub is_found: bool,
    /// Others that have such tables as well.
    pub others: Vec<String>,
}

/// Goes to the schema that has Synapse's tables: from then on a name without a schema means what Synapse means by it.
/// `known`: the schema, where somebody has looked before. `None`: no schema has them.
///
/// # Errors
/// Terminal, `SchemaUnclear`: several schemas have them, and the search path leads to none. Those of PostgreSQL.
pub async fn enter(session: &mut Session, known: Option<&str>) -> Result<Option<Schema>> {
    let Some(schema) = find(session, known).await? else { return Ok(None) };
    if !schema.is_found {
        let path = format!("SET search_path TO {}", quote::ident(&schema.name));
        session.execute(&path).await.explain(DOING)?;
    }
    Ok(Some(schema))
}

/// Connects, and goes to the schema that has Synapse's tables, if any has them.
///
/// # Errors
/// As [`enter`]. What PostgreSQL says.
pub async fn connect(target: &Target, known: Option<&str>) -> Result<Session> {
    let mut session = target.connect().await?;
    enter(&mut session, known).await?;
    Ok(session)
}

/// Another program's table may be called `schema_version`, too. Synapse has a second one beside it.
async fn find(session: &mut Session, known: Option<&str>) -> Result<Option<Schema>> {
    let schemas: Vec<(String, bool)> = sqlx::query_as(
        "SELECT n.nspname::text, pg_table_is_visible(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relname = 'schema_version' AND c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
             AND (pg_table_is_visible(c.oid) OR EXISTS (SELECT FROM pg_class d \
                 WHERE d.relnamespace = n.oid AND d.relname = 'applied_schema_deltas' AND d.relkind = 'r')) \
         ORDER BY 1",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)?;
    choose(schemas, known)
}

fn choose(schemas: Vec<(String, bool)>, known: Option<&str>) -> Result<Option<Schema>> {
    let is_known = |(name, _): &&(String, bool)| Some(name.as_str()) == known;
    let chosen = match schemas.as_slice() {
        [] => return Ok(None),
        [only] => only,
        several => match several.iter().find(is_known).or_else(|| several.iter().find(|(_, is_found)| *is_found)) {
            Some(chosen) => chosen,
            None => {
                let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
                return Err(TaskError::terminal(
                    "SchemaUnclear",
                    format!(
                        "Several schemas have tables of Synapse ({}), and the search path of our role leads to none of them. \
                         Name the right one: ALTER ROLE … IN DATABASE … SET search_path TO …;",
                        names.join(", ")
                    ),
                ));
            }
        },
    };
    let (name, is_found) = chosen.clone();
    let others = schemas.into_iter().map(|(other, _)| other).filter(|other| *other != name).collect();
    Ok(Some(Schema { name, is_found, others }))
}

/// Makes sure that a new session of this role finds Synapse's tables in this database: a setting of the role in the database
/// leads to them, if nothing else does. The role may make it by itself. Returns what there is to tell people.
///
/// # Errors
/// Terminal: `NoSynapseSchema`, `SchemaNotFound`. Those of PostgreSQL.
pub async fn lead_to(target: &Target, known: Option<&str>) -> Result<Option<String>> {
    let mut session = target.connect().await?;
    let Some(schema) = find(&mut session, known).await? else {
        return Err(TaskError::terminal(
            "NoSynapseSchema",
            format!(
                "Database {} has no table schema_version in any schema: it is no database of Synapse.",
                target.database
            ),
        ));
    };
    if schema.is_found {
        return Ok(None);
    }
    let (role, database) = (quote::ident(&target.credentials.username), quote::ident(&target.database));
    let setting = format!("ALTER ROLE {role} IN DATABASE {database} SET search_path TO {}", quote::ident(&schema.name));
    // The database may be closed to whoever does not ask to write; a transaction that has begun stays so.
    session.execute("SET default_transaction_read_only = off").await.explain(DOING)?;
    let refused = session.execute(&setting).await.explain("setting the search path").err();
    let mut session = target.connect().await?;
    if find(&mut session, known).await?.is_some_and(|schema| schema.is_found) {
        return Ok(Some(format!("so that Synapse finds its tables: {setting}")));
    }
    let why = refused.map_or_else(|| "another setting is stronger".to_owned(), |error| error.message);
    Err(TaskError::terminal(
        "SchemaNotFound",
        format!(
            "Synapse's tables are in schema {} of database {}, and a session of role {} does not find them there ({why}): \
             Synapse would make new, empty tables. Nothing was replaced. As a superuser: {setting};",
            schema.name, target.database, target.credentials.username
        ),
    ))
}

/// As many are named.
const NAMED: usize = 5;

/// Tables that are in every whole homeserver, whatever its version, by the store that has them in Synapse's `databases:`.
/// They are few and old (schema 72, the oldest that Synapse upgrades from).
const MAIN: [&str; 10] = [
    "users",
    "events",
    "event_json",
    "rooms",
    "room_memberships",
    "current_state_events",
    "event_to_state_groups",
    "profiles",
    "devices",
    "access_tokens",
];
const STATE: [&str; 3] = ["state_groups", "state_group_edges", "state_groups_state"];

/// Tables without which a homeserver is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(Vec<String>);

impl Missing {
    /// `None`: all are there.
    pub fn of(tables: &database::Tables<'_>) -> Option<Self> {
        let missing = MAIN.iter().chain(&STATE).filter(|table| !tables.contains(**table));
        Self::named(missing.map(|table| (*table).to_owned()).collect())
    }

    /// As an inspection has told them.
    pub fn named(tables: Vec<String>) -> Option<Self> {
        (!tables.is_empty()).then_some(Self(tables))
    }

    pub fn tables(self) -> Vec<String> {
        self.0
    }

    /// All of one store and none of the other.
    fn is_split(&self) -> bool {
        let are =
            |store: &[&str]| self.0.len() == store.len() && self.0.iter().all(|table| store.contains(&table.as_str()));
        are(&STATE) || are(&MAIN)
    }

    /// In a word.
    pub fn reason(&self) -> &'static str {
        if self.is_split() { "DatabaseSplit" } else { "TablesMissing" }
    }

    /// For people.
    pub fn message(&self) -> String {
        let more = self.0.len().saturating_sub(NAMED);
        let named = self.0.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!(
            "tables of Synapse are missing: {named}{more}. A homeserver that is split over two databases (several entries in \
             `databases:` of homeserver.yaml) is not supported yet"
        )
    }

    /// `what` has them not, such as a backup; with what to do.
    pub fn refused(&self, what: &str, advice: &str) -> TaskError {
        TaskError::terminal(self.reason(), format!("{what}: {}. {advice}", self.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schemas(of: &[(&str, bool)]) -> Vec<(String, bool)> {
        of.iter().map(|(name, is_found)| ((*name).to_owned(), *is_found)).collect()
    }

    fn chosen(of: &[(&str, bool)], known: Option<&str>) -> Option<(String, bool)> {
        choose(schemas(of), known).unwrap().map(|schema| (schema.name, schema.is_found))
    }

    #[test]
    fn the_schema_is_the_one_with_the_tables() {
        let some = |name: &str, is_found| Some((name.to_owned(), is_found));
        assert_eq!(chosen(&[], None), None);
        assert_eq!(chosen(&[("syn", false)], None), some("syn", false));
        assert_eq!(chosen(&[("syn", false)], Some("public")), some("syn", false), "it was moved since");
        assert_eq!(chosen(&[("public", true), ("syn", false)], None), some("public", true));
        assert_eq!(chosen(&[("public", true), ("syn", false)], Some("syn")), some("syn", false));
        let error = choose(schemas(&[("a", false), ("b", false)]), None).unwrap_err();
        assert!(error.reason == "SchemaUnclear" && error.message.contains("(a, b)"), "{error}");
    }

    #[test]
    fn half_a_homeserver_is_told_from_one_that_lost_tables() {
        let all: database::Tables = MAIN.into_iter().chain(STATE).collect();
        assert_eq!(Missing::of(&all), None);
        let main: database::Tables = MAIN.into();
        let state: database::Tables = STATE.into();
        for half in [&main, &state] {
            assert_eq!(Missing::of(half).unwrap().reason(), "DatabaseSplit");
        }
        let message = Missing::of(&main).unwrap().message();
        assert!(message.contains("missing: state_groups, state_group_edges, state_groups_state. "), "{message}");
        assert!(Missing::of(&state).unwrap().message().contains(" and 5 more. "));
        let lost = &all - &["events", "state_groups"].into();
        let missing = Missing::of(&lost).unwrap();
        assert_eq!(
            (missing.reason(), missing.tables()),
            ("TablesMissing", vec!["events".to_owned(), "state_groups".to_owned()])
        );
    }
}
