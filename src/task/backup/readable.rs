//! Whether our role can read all that a backup reads, and lock it: found out before anything is stored. Other programs put tables
//! into Synapse's database, under roles of their own.

use std::collections::BTreeSet;

use super::exclude::Excluded;
use crate::{
    contract::TaskError,
    postgres::{Explain, Result, Session},
    quote,
    synapse::guests,
};

/// As many are named in a message.
const NAMED: usize = 5;

/// A relation that cannot be read as it is: for lack of a right, or else because of row security.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Closed {
    /// As SQL has it.
    name: String,
    schema: String,
    /// It may be left out of the backup.
    may_be_excluded: bool,
    is_sequence: bool,
    owner: String,
    no_usage: bool,
    no_select: bool,
}

impl Closed {
    /// Where `spec.exclude` can have it.
    fn exclude(&self) -> Option<(&'static str, &str)> {
        match (self.may_be_excluded, self.no_usage) {
            (false, _) => None,
            (true, true) => Some(("schemas", &self.schema)),
            (true, false) => Some(("tables", &self.name)),
        }
    }

    fn grants(&self, role: &str) -> Vec<String> {
        let role = quote::ident(role);
        let usage = self.no_usage.then(|| format!("GRANT USAGE ON SCHEMA {} TO {role};", self.schema));
        let kind = if self.is_sequence { "SEQUENCE " } else { "" };
        let select = self.no_select.then(|| format!("GRANT SELECT ON {kind}{} TO {role};", self.name));
        usage.into_iter().chain(select).collect()
    }
}

/// Of which database.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    Synapse {
        excluded: &'a Excluded,
        /// Where Synapse's tables are.
        schema: Option<&'a str>,
    },
    AuthenticationService,
}

/// Looks at every table and sequence that a backup reads.
///
/// # Errors
/// Terminal: `TableUnreadable`, `RowSecurity`, `LockTableTooSmall`.
pub async fn check(session: &mut Session, of: Of<'_>) -> Result<()> {
    let role: String = sqlx::query_scalar("SELECT current_user::text")
        .fetch_one(&mut session.connection)
        .await
        .explain("asking for the role")?;
    let excluded = match of {
        Of::Synapse { excluded, .. } => excluded.oids(),
        Of::AuthenticationService => Vec::new(),
    };
    let closed = closed(session, &excluded, of).await?;
    refuse(&closed, &role)?;
    locks(session, &excluded).await
}

fn refuse(closed: &[Closed], role: &str) -> Result<()> {
    let (unreadable, guarded): (Vec<&Closed>, Vec<&Closed>) =
        closed.iter().partition(|closed| closed.no_usage || closed.no_select);
    let named = |some: &[&Closed]| {
        let more = some.len().saturating_sub(NAMED);
        let names: Vec<String> =
            some.iter().take(NAMED).map(|one| format!("{} of role {}", one.name, one.owner)).collect();
        names.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
    };
    if !unreadable.is_empty() {
        let mut grants: Vec<String> = unreadable.iter().flat_map(|closed| closed.grants(role)).collect();
        grants.dedup();
        let more = if grants.len() > 2 * NAMED { " …" } else { "" };
        grants.truncate(2 * NAMED);
        return Err(TaskError::terminal(
            "TableUnreadable",
            format!(
                "Role {role} may not read {}. As their owner or a superuser: {}{more}{}",
                named(&unreadable),
                grants.join(" "),
                or_exclude(&unreadable)
            ),
        ));
    }
    if guarded.is_empty() {
        return Ok(());
    }
    Err(TaskError::terminal(
        "RowSecurity",
        format!(
            "Row security hides rows of {} from role {role}, so a backup would not be whole. As a superuser: ALTER ROLE {} \
             BYPASSRLS;{}",
            named(&guarded),
            quote::ident(role),
            or_exclude(&guarded)
        ),
    ))
}

/// The other way out, as it stands in the object. Nothing where one of them must be in the backup.
fn or_exclude(closed: &[&Closed]) -> String {
    let Some(all) = closed.iter().map(|closed| closed.exclude()).collect::<Option<BTreeSet<_>>>() else {
        return String::new();
    };
    let list = |field: &str| {
        let names: Vec<String> = all
            .iter()
            .filter(|(of, _)| *of == field)
            .map(|(_, name)| format!("'{}'", name.replace('\'', "''")))
            .collect();
        let more = if names.len() > NAMED { ", …" } else { "" };
        (!names.is_empty()).then(|| format!("{field}: [{}{more}]", names[..names.len().min(NAMED)].join(", ")))
    };
    let lists: Vec<String> = ["schemas", "tables"].into_iter().filter_map(list).collect();
    format!(
        " Or leave them out of the backup. In the SynapseBackup (in a new one if it has no schedule): exclude: {{{}}}",
        lists.join(", ")
    )
}

async fn closed(session: &mut Session, excluded: &[i64], of: Of<'_>) -> Result<Vec<Closed>> {
    // Not what belongs to an extension, as the snapshot. Rows of unlogged tables are left out, but pg_dump locks these too.
    type Row = (String, String, String, String, bool, String, bool, bool, bool);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT * FROM (SELECT format('%I.%I', n.nspname, c.relname) AS name, quote_ident(n.nspname) AS schema, \
             n.nspname::text AS in_schema, c.relname::text AS relation, \
             c.relkind = 'S' AS is_sequence, pg_get_userbyid(c.relowner)::text AS owner, \
             NOT has_schema_privilege(n.oid, 'USAGE') AS no_usage, \
             NOT CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT') \
                 ELSE has_table_privilege(c.oid, 'SELECT') END AS no_select, \
             c.relkind <> 'S' AND row_security_active(c.oid) AS row_security \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND c.oid::int8 <> ALL ($1) \
             AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' \
             AND NOT EXISTS (SELECT FROM pg_depend d \
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')) seen \
         WHERE no_usage OR no_select OR row_security ORDER BY name",
    )
    .bind(excluded)
    .fetch_all(&mut session.connection)
    .await
    .explain("looking which tables may be read")?;
    let may_be_excluded = |in_schema: &str, relation: &str| match of {
        Of::AuthenticationService => false,
        Of::Synapse { schema, .. } => schema != Some(in_schema) || !guests::is_relation_of_synapse(relation),
    };
    let closed = |(name, schema, in_schema, relation, is_sequence, owner, no_usage, no_select, _): Row| Closed {
        name,
        schema,
        may_be_excluded: may_be_excluded(&in_schema, &relation),
        is_sequence,
        owner,
        no_usage,
        no_select,
    };
    Ok(rows.into_iter().map(closed).collect())
}

/// A backup holds a lock on every table, and `pg_dump` once more while it reads the schema. PostgreSQL has a fixed number of them.
async fn locks(session: &mut Session, excluded: &[i64]) -> Result<()> {
    let (tables, per_session, capacity): (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND c.oid::int8 <> ALL ($1) AND n.nspname !~ '^pg_(toast|temp|catalog)'), \
             current_setting('max_locks_per_transaction')::int8, \
             current_setting('max_locks_per_transaction')::int8 * (current_setting('max_connections')::int8 \
                 + current_setting('max_prepared_transactions')::int8 + current_setting('max_worker_processes')::int8 \
                 + current_setting('max_wal_senders')::int8 + current_setting('autovacuum_max_workers')::int8 + 1)",
    )
    .bind(excluded)
    .fetch_one(&mut session.connection)
    .await
    .explain("counting the locks that a backup needs")?;
    room(tables, per_session, capacity)
}

/// PostgreSQL gives out more than it promises as long as there is memory left over: what may just do is not refused.
const LEFT_OVER: i64 = 2;

fn room(tables: i64, per_session: i64, capacity: i64) -> Result<()> {
    if tables <= capacity.saturating_mul(LEFT_OVER) {
        return Ok(());
    }
    // Both sessions, and the others of the server as before.
    let needed = 2 * tables * per_session / capacity.max(1) + per_session + 1;
    Err(TaskError::terminal(
        "LockTableTooSmall",
        format!(
            "A backup locks {tables} tables, and this PostgreSQL promises {capacity} locks (max_locks_per_transaction is \
             {per_session}). Set it to {needed} and restart PostgreSQL: ALTER SYSTEM SET max_locks_per_transaction = {needed};"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(name: &str) -> Closed {
        Closed {
            name: format!("monitoring.{name}"),
            schema: "monitoring".to_owned(),
            may_be_excluded: true,
            is_sequence: false,
            owner: "exporter".to_owned(),
            no_usage: true,
            no_select: true,
        }
    }

    #[test]
    fn who_may_not_read_is_told_what_to_grant() {
        let sequence = Closed { is_sequence: true, ..closed("s") };
        let error = refuse(&[closed("t"), sequence], "synapse").unwrap_err();
        assert_eq!(error.reason, "TableUnreadable");
        for words in [
            "monitoring.t of role exporter",
            "GRANT USAGE ON SCHEMA monitoring TO \"synapse\"",
            "GRANT SELECT ON monitoring.t TO \"synapse\"",
            "GRANT SELECT ON SEQUENCE monitoring.s TO",
            "exclude: {schemas: ['monitoring']}",
        ] {
            assert!(error.message.contains(words), "{words}: {error}");
        }
        let many: Vec<Closed> = (0..99).map(|number| closed(&format!("t{number}"))).collect();
        let error = refuse(&many, "synapse").unwrap_err();
        assert!(error.message.contains("and 94 more") && error.message.len() < 1500, "{error}");
        let guarded = Closed { no_usage: false, no_select: false, ..closed("t") };
        let own = Closed { may_be_excluded: false, no_usage: false, ..closed("t") };
        assert!(!refuse(&[own, closed("t")], "synapse").unwrap_err().message.contains("exclude"), "one must be in it");
        let odd = Closed { name: "public.\"it's\"".to_owned(), no_usage: false, ..closed("t") };
        let message = refuse(&[odd], "synapse").unwrap_err().message;
        assert!(message.ends_with("exclude: {tables: ['public.\"it''s\"']}"), "{message}");
        assert_eq!(refuse(&[guarded], "synapse").unwrap_err().reason, "RowSecurity");
        assert_eq!(refuse(&[], "synapse"), Ok(()));
    }

    #[test]
    fn the_lock_table_is_counted_before_it_is_full() {
        assert_eq!(room(176, 64, 64 * 123), Ok(()));
        let error = room(1500, 10, 420).unwrap_err();
        assert_eq!(error.reason, "LockTableTooSmall");
        assert!(error.message.contains("1500 tables") && error.message.contains("= 82;"), "{error}");
    }
}
