//! Tables of somebody else in Synapse's database, under Synapse's own role: such as a bridge's.
//!
//! Sessions of that role are taken for Synapse's, and what is restored takes these tables back in time as well. Which tables are
//! Synapse's stands in `tables.txt`, from the files of its schema. Of a newer schema nobody knows it, so nothing is said.

use std::collections::HashSet;

use super::{
    database::{self, Tables},
    schema, sequences,
};
use crate::postgres::{Explain, Result, Session};

/// By `hack/synapse-tables.py`.
const KNOWN: &str = include_str!("tables.txt");

/// The version of Synapse's schema whose tables are known.
pub const SCHEMA: i32 = 94;

/// As many tables are named.
const NAMED: usize = 5;

fn known() -> HashSet<&'static str> {
    KNOWN.lines().filter(|line| !line.starts_with('#')).collect()
}

/// Whether a table of this name in Synapse's schema is Synapse's.
pub fn is_synapse_s(table: &str) -> bool {
    KNOWN.lines().any(|known| known == table)
}

/// Whether a table or a sequence of this name in Synapse's schema is Synapse's.
pub fn is_relation_of_synapse(name: &str) -> bool {
    is_synapse_s(name) || sequences::is_synapse_s(name)
}

/// Those of somebody else among a homeserver's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guests(Vec<String>);

impl Guests {
    /// Among these tables of a homeserver of this schema, by their quoted names: with the schema in front.
    pub fn among<'a>(tables: impl IntoIterator<Item = &'a str>, version: i32) -> Option<Self> {
        if version > SCHEMA {
            return None;
        }
        let known = known();
        let is_guest = |table: &&str| !known.contains(table.rsplit('.').next().unwrap_or(table));
        let guests: Vec<String> = tables.into_iter().filter(is_guest).map(str::to_owned).collect();
        (!guests.is_empty()).then_some(Self(guests))
    }

    /// Those that are not among the others.
    pub fn without(self, others: Option<&Self>) -> Option<Self> {
        let left: Vec<String> =
            self.0.into_iter().filter(|table| others.is_none_or(|others| !others.0.contains(table))).collect();
        (!left.is_empty()).then_some(Self(left))
    }

    /// The first of them, for people.
    pub fn named(&self) -> String {
        let more = self.0.len().saturating_sub(NAMED);
        let named = self.0.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{named} and {more} more") } else { named }
    }
}

/// Looks which tables in Synapse's database belong to our role and are not Synapse's. `None`: none, or it is no database of
/// Synapse.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn find(session: &mut Session) -> Result<Option<Guests>> {
    let Some(schema) = schema::enter(session, None).await? else { return Ok(None) };
    let Some(version) = database::schema_version(session, &Tables::from(["schema_version"])).await? else {
        return Ok(None);
    };
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND pg_has_role(c.relowner, 'USAGE') \
             AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND n.nspname <> ALL ($1) \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
         ORDER BY 1",
    )
    // A second set of Synapse's tables is no guest.
    .bind(schema.others)
    .fetch_all(&mut session.connection)
    .await
    .explain("looking whose the tables are")?;
    Ok(Guests::among(tables.iter().map(String::as_str), version.version))
}

/// Whose sessions those of Synapse's role may be, where it is not Synapse; for the end of a message. Says nothing where it
/// cannot be known.
pub async fn hint(session: &mut Session) -> String {
    match find(session).await {
        Ok(Some(guests)) => format!(
            " The role also owns tables that are not Synapse's ({}): if these sessions are those of a bridge or another program, \
             add its Deployment or StatefulSet to spec.workloads of the Synapse object.",
            guests.named()
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_synapse_has_made_is_no_guest() {
        assert!(KNOWN.starts_with(&format!("# Schema {SCHEMA} of Synapse")), "make SCHEMA that of tables.txt");
        let tables = ["public.portal", "public.events", "syn.state_groups", "\"Odd\".puppet"];
        let guests = Guests::among(tables, SCHEMA).unwrap();
        assert_eq!(guests.named(), "public.portal, \"Odd\".puppet");
        assert_eq!(Guests::among(tables, SCHEMA + 1), None, "a newer Synapse may have made them");
        assert_eq!(Guests::among(["public.events"], SCHEMA), None);
        let many: Vec<String> = (1..=7).map(|number| format!("public.t{number}")).collect();
        assert!(Guests::among(many.iter().map(String::as_str), 72).unwrap().named().ends_with("public.t5 and 2 more"));
    }
}
