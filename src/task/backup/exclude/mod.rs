//! What of Synapse's database `spec.exclude` leaves out of a backup, and why that is refused.
//!
//! One list decides: [`Excluded`] says which tables are not locked, not read and not counted, and what `pg_dump` leaves out. Partitions
//! and tables that inherit go with their parent, and sequences with the table that owns them. What [`needed`] finds would make a
//! restore fail.

mod needed;

use std::collections::BTreeSet;

use crate::{
    api::exclude::Exclude,
    contract::TaskError,
    postgres::{Explain, Result, Session},
    quote,
    synapse::guests,
    task::schema::{self, NotRestored},
};

/// As many names stand in a message.
const NAMED: usize = 5;

const WHY: &str = "spec.exclude of the SynapseBackup leaves it out";

/// What is found of it in a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excluded {
    schemas: Vec<Schema>,
    relations: Vec<Relation>,
    /// What of the object's lists is not in the database.
    unmatched: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Schema {
    oid: i64,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Relation {
    oid: i64,
    schema: String,
    name: String,
    /// For people, such as `table bridge.log`.
    shown: String,
    /// A sequence that goes with the table that owns it.
    is_owned: bool,
}

/// A table's name as it is written in `spec.exclude`.
fn table_of(written: &str) -> Result<(String, String)> {
    match quote::parts(written).as_deref() {
        Some([schema, table]) => Ok((schema.clone(), table.clone())),
        _ => Err(TaskError::terminal(
            "ExcludeInvalid",
            format!(
                "spec.exclude.tables of the SynapseBackup has {written}: write schema.table, and a name that has a dot or a double \
                 quote in double quotes, such as public.\"a.b\". Nothing was stored."
            ),
        )),
    }
}

/// A schema's name as it is written: in quotes, or as it is.
fn schema_of(written: &str) -> String {
    match quote::parts(written).as_deref() {
        Some([name]) if written.starts_with('"') => name.clone(),
        _ => written.to_owned(),
    }
}

impl Excluded {
    /// Looks for what is named.
    ///
    /// # Errors
    /// Terminal: `ExcludeInvalid`. Those of PostgreSQL.
    pub async fn find(session: &mut Session, exclude: &Exclude) -> Result<Self> {
        if exclude.is_empty() {
            return Ok(Self::default());
        }
        let schemas: Vec<String> = exclude.schemas.iter().map(|written| schema_of(written)).collect();
        let tables = exclude.tables.iter().map(|written| table_of(written)).collect::<Result<Vec<_>>>()?;
        let (of_schemas, names): (Vec<String>, Vec<String>) = tables.iter().cloned().unzip();
        let found_schemas: Vec<(i64, String)> = sqlx::query_as(
            "SELECT oid::int8, nspname::text FROM pg_namespace WHERE nspname = ANY ($1) AND nspname !~ '^pg_' \
                 AND nspname <> 'information_schema' ORDER BY nspname",
        )
        .bind(&schemas)
        .fetch_all(&mut session.connection)
        .await
        .explain(LOOKING)?;
        let found_schemas: Vec<Schema> = found_schemas.into_iter().map(|(oid, name)| Schema { oid, name }).collect();
        let relations = relations(session, &found_schemas, &of_schemas, &names).await?;
        let has_schema = |name: &String| found_schemas.iter().any(|schema| schema.name == *name);
        let has_table = |(schema, name): &(String, String)| {
            relations.iter().any(|found| found.schema == *schema && found.name == *name)
        };
        let no_schemas = schemas.iter().filter(|name| !has_schema(name)).map(|name| format!("schema {name}"));
        let no_tables = tables.iter().zip(&exclude.tables).filter(|(name, _)| !has_table(name));
        let unmatched = no_schemas.chain(no_tables.map(|(_, written)| format!("table {written}"))).collect();
        Ok(Self { schemas: found_schemas, relations, unmatched })
    }

    /// Whether it may be left out. `of_synapse`: the schema with Synapse's tables.
    ///
    /// # Errors
    /// Terminal: `ExcludesSynapse`, `ExcludedNeeded`. Those of PostgreSQL.
    pub async fn check(&self, session: &mut Session, of_synapse: Option<&str>) -> Result<()> {
        self.refuse_synapse_s(of_synapse)?;
        match needed::find(session, self).await? {
            needed if needed.is_empty() => Ok(()),
            needed => Err(TaskError::terminal(
                "ExcludedNeeded",
                format!(
                    "spec.exclude of the SynapseBackup leaves out what the rest of the database needs, so a restore would fail: {}. \
                     Nothing was stored. Exclude what needs it as well, or drop that, or take what it needs out of spec.exclude.",
                    some(&needed, "; ")
                ),
            )),
        }
    }

    fn refuse_synapse_s(&self, of_synapse: Option<&str>) -> Result<()> {
        let schemas = self.schemas.iter().filter(|schema| Some(schema.name.as_str()) == of_synapse);
        let is_synapse_s = |relation: &&Relation| {
            Some(relation.schema.as_str()) == of_synapse && guests::is_relation_of_synapse(&relation.name)
        };
        let relations = self.relations.iter().filter(is_synapse_s).map(|relation| relation.shown.clone());
        let names: Vec<String> = schemas.map(|schema| format!("schema {}", schema.name)).chain(relations).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(TaskError::terminal(
            "ExcludesSynapse",
            format!(
                "spec.exclude of the SynapseBackup names what is Synapse's own: {}. Without it a backup does not bring the homeserver \
                 back. Nothing was stored. Take it out of spec.exclude.",
                some(&names, ", ")
            ),
        ))
    }

    /// The numbers of its relations in `pg_class`.
    pub fn oids(&self) -> Vec<i64> {
        self.relations.iter().map(|relation| relation.oid).collect()
    }

    /// What makes `pg_dump` leave it out. In double quotes nothing of a pattern is special.
    pub fn to_args(&self) -> Vec<String> {
        let schemas = self.schemas.iter().map(|schema| format!("--exclude-schema={}", quote::ident(&schema.name)));
        let in_schemas: BTreeSet<&str> = self.schemas.iter().map(|schema| schema.name.as_str()).collect();
        let relations = self.relations.iter().filter(|relation| !in_schemas.contains(relation.schema.as_str()));
        let relations = relations.map(|Relation { schema, name, .. }| {
            format!("--exclude-table={}.{}", quote::ident(schema), quote::ident(name))
        });
        schemas.chain(relations).collect()
    }

    /// All of it, for people and for the manifest.
    pub fn shown(&self) -> Vec<String> {
        let schemas = self.schemas.iter().map(|schema| format!("schema {}", schema.name));
        let relations = self.relations.iter().filter(|relation| !relation.is_owned);
        schemas.chain(relations.map(|relation| relation.shown.clone())).collect()
    }

    /// What does not refuse a backup, and is worth a look.
    pub fn warnings(&self, of_synapse: Option<&str>, version: i32) -> Vec<String> {
        self.nothing_found().into_iter().chain(self.may_be_synapse_s(of_synapse, version)).collect()
    }

    /// A name that is not in the database hurts no backup: either there is nothing to leave out, or the backup has more than it should.
    fn nothing_found(&self) -> Option<String> {
        (!self.unmatched.is_empty()).then(|| {
            format!(
                "spec.exclude names what is not in the database, so nothing is left out for it: {}. Names are exact: is each spelt right, \
                 with capital letters?",
                some(&self.unmatched, ", ")
            )
        })
    }

    /// A refusal would end the backups of a bridge's neighbour with each upgrade of Synapse.
    fn may_be_synapse_s(&self, of_synapse: Option<&str>, version: i32) -> Option<String> {
        let beside_synapse_s = self.relations.iter().filter(|relation| Some(relation.schema.as_str()) == of_synapse);
        let names: Vec<String> = beside_synapse_s.map(|relation| relation.shown.clone()).collect();
        (version > guests::SCHEMA && !names.is_empty()).then(|| {
            format!(
                "Synapse's schema is version {version}, and this release knows Synapse's tables up to version {}. Check that none of these \
                 is Synapse's, because spec.exclude leaves them out: {}.",
                guests::SCHEMA,
                some(&names, ", ")
            )
        })
    }
}

/// What was left out of a backup, as lines for people.
pub fn told(shown: &[String]) -> Vec<String> {
    schema::told(&shown.iter().map(|what| NotRestored::new(what, WHY)).collect::<Vec<_>>())
}

const LOOKING: &str = "looking for what spec.exclude names";

/// The relations of these schemas and of these names, with those that go with them.
async fn relations(
    session: &mut Session,
    schemas: &[Schema],
    of_schemas: &[String],
    names: &[String],
) -> Result<Vec<Relation>> {
    let schemas: Vec<i64> = schemas.iter().map(|schema| schema.oid).collect();
    let rows: Vec<(i64, String, String, String, bool)> = sqlx::query_as(
        "WITH RECURSIVE \
             named AS (\
                 SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'p', 'S', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
                     AND (n.oid::int8 = ANY ($1) OR EXISTS (\
                         SELECT FROM unnest($2, $3) named(of, name) WHERE named.of = n.nspname AND named.name = c.relname))), \
             children AS (\
                 SELECT inhparent AS of, inhrelid AS oid, false AS is_owned FROM pg_inherits \
                 UNION ALL SELECT d.refobjid, d.objid, true FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
                 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')), \
             found AS (\
                 SELECT oid, false AS is_owned FROM named \
                 UNION SELECT c.oid, c.is_owned FROM found f JOIN children c ON c.of = f.oid) \
         SELECT c.oid::int8, n.nspname::text, c.relname::text, \
             format('%s %I.%I', CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' \
                 WHEN 'f' THEN 'foreign table' ELSE 'table' END, n.nspname, c.relname), bool_or(f.is_owned) \
         FROM found f JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace GROUP BY 1, 2, 3, 4 ORDER BY 4",
    )
    .bind(schemas)
    .bind(of_schemas)
    .bind(names)
    .fetch_all(&mut session.connection)
    .await
    .explain(LOOKING)?;
    let relation = |(oid, schema, name, shown, is_owned)| Relation { oid, schema, name, shown, is_owned };
    Ok(rows.into_iter().map(relation).collect())
}

fn some(names: &[String], between: &str) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(between);
    if more > 0 { format!("{named} and {more} more") } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(schema: &str, name: &str) -> Relation {
        let shown = format!("table {schema}.{name}");
        Relation { oid: 1, schema: schema.to_owned(), name: name.to_owned(), shown, is_owned: false }
    }

    #[test]
    fn tables_of_a_newer_synapse_are_unknown() {
        let relations = vec![relation("public", "log"), relation("bridge", "log")];
        let excluded = Excluded { relations, ..Excluded::default() };
        let newer = excluded.warnings(Some("public"), guests::SCHEMA + 1);
        assert!(newer.len() == 1 && newer[0].contains("leaves them out: table public.log."), "{newer:?}");
        assert_eq!(excluded.warnings(Some("public"), guests::SCHEMA), [""; 0]);
        assert_eq!(excluded.warnings(Some("synapse"), guests::SCHEMA + 1), [""; 0]);
    }

    #[test]
    fn names_are_never_patterns() {
        let excluded = Excluded {
            schemas: vec![Schema { oid: 2, name: "a.*".to_owned() }],
            relations: vec![relation("public", "T \"1\"*"), relation("a.*", "log")],
            unmatched: Vec::new(),
        };
        let args = ["--exclude-schema=\"a.*\"", "--exclude-table=\"public\".\"T \"\"1\"\"*\""];
        assert_eq!(excluded.to_args(), args, "a schema has its tables");
        assert_eq!(excluded.shown(), ["schema a.*", "table public.T \"1\"*", "table a.*.log"]);
        assert_eq!(schema_of("a.b"), "a.b");
        assert_eq!(schema_of("\"a.b\""), "a.b");
        assert_eq!(table_of("Public.Log").unwrap(), ("Public".to_owned(), "Log".to_owned()));
        for written in ["log", "a.b.c", "\"a.b"] {
            assert_eq!(table_of(written).unwrap_err().reason, "ExcludeInvalid", "{written}");
        }
    }

    #[test]
    fn nothing_of_synapse_is_left_out() {
        let of = |relations: Vec<Relation>| Excluded { relations, ..Excluded::default() };
        for name in ["events", "events_stream_seq", "e2e_one_time_keys_json"] {
            let error = of(vec![relation("syn", name)]).refuse_synapse_s(Some("syn")).unwrap_err();
            assert!(
                error.reason == "ExcludesSynapse" && error.message.contains(&format!("table syn.{name}.")),
                "{error}"
            );
            assert_eq!(of(vec![relation("bridge", name)]).refuse_synapse_s(Some("syn")), Ok(()));
        }
        assert_eq!(of(vec![relation("syn", "portal")]).refuse_synapse_s(Some("syn")), Ok(()));
        let schemas = vec![Schema { oid: 2, name: "syn".to_owned() }];
        let error = Excluded { schemas, ..Excluded::default() }.refuse_synapse_s(Some("syn")).unwrap_err();
        assert!(error.message.contains("schema syn."), "{error}");
    }
}
