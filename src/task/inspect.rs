//! `task inspect`: what is true of a homeserver's database. Reads, and changes nothing.
//!
//! A fact that cannot be had (a count that takes too long, a table that an older Synapse lacks) is a warning; the others
//! are told.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    contract::{InspectionFindings, TableFacts, output::progress},
    postgres::{Explain, Locale, Result, Session, relations},
    synapse::{
        database::{self, Tables},
        guests,
        schema::{self, Schema},
        sequences, version,
    },
    task::{arguments::Connection, restore::left::left},
};

/// As many tables are named.
const LARGEST: usize = 10;

/// What to inspect.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    /// Where Synapse's main process answers, to ask for its version.
    #[arg(long)]
    synapse_url: Option<String>,
    /// The homeserver's name; without it: as its users have it.
    #[arg(long)]
    server_name: Option<String>,
}

/// Reads everything.
///
/// # Errors
/// The database cannot be reached or read at all.
pub async fn run(arguments: Arguments) -> Result<InspectionFindings> {
    let mut session = arguments.connection.target()?.connect().await?;
    let mut findings = server(&mut session).await?;
    if let Some(schema) = schema::enter(&mut session, None).await? {
        findings.warnings.extend(where_they_are(&schema, &arguments.connection)?);
    }
    let tables = relations::tables(&mut session).await?;
    findings.dead_rows = tables.iter().map(|table| table.dead_rows).sum();
    findings.largest_tables = tables.iter().take(LARGEST).map(facts).collect();
    findings.foreign_tables = foreign_tables(&tables, &arguments.connection);

    findings.left_databases = or_warn(left(&mut session).await, &mut findings.warnings)?.unwrap_or_default();

    let names: Tables = tables.iter().map(|table| table.name.as_str()).collect();
    match database::schema_version(&mut session, &names).await? {
        Some(schema) => {
            findings.schema_version = Some(schema.version);
            findings.schema_compat_version = schema.compat_version;
            findings.missing_tables = schema::Missing::of(&names).map(schema::Missing::tables).unwrap_or_default();
            progress("reading Synapse's tables");
            synapse(&mut session, &names, arguments.server_name.as_deref(), &mut findings).await?;
        }
        None => findings.warnings.push(
            "There is no schema of Synapse in this database: is postgres.database right? A Synapse that has never \
             started leaves it empty."
                .to_owned(),
        ),
    }
    if let Some(guests) = guests::find(&mut session).await? {
        findings.warnings.push(format!(
            "The role also owns tables that are not Synapse's: {}. A backup and a restore take them along. If a bridge or another \
             program uses them, add its Deployment to spec.workloads: its sessions are taken for Synapse's",
            guests.named()
        ));
    }
    if let Some(url) = &arguments.synapse_url {
        match version::server_version(url).await {
            Ok(version) => findings.synapse_version = Some(version),
            Err(error) => findings.synapse_version_error = Some(error),
        }
    }
    Ok(findings)
}

/// What people should know of the schema that has Synapse's tables.
fn where_they_are(schema: &Schema, connection: &Connection) -> Result<Vec<String>> {
    let role = connection.target()?.credentials.username;
    let Schema { name, is_found, others } = schema;
    let not_found = (!is_found).then(|| {
        format!(
            "Synapse's tables are in schema {name}, and no setting of the database or of role {role} leads there: homeserver.yaml \
             has to (database.args.options)"
        )
    });
    let twice = (!others.is_empty()).then(|| {
        format!(
            "Schema {} has tables of Synapse, too, which Synapse does not use: it uses those in {name}",
            others.join(", ")
        )
    });
    Ok(not_found.into_iter().chain(twice).collect())
}

/// What is true of the server and of any database.
async fn server(session: &mut Session) -> Result<InspectionFindings> {
    let (now, version, version_num, sees_all): (i64, String, i32, bool) = sqlx::query_as(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8, current_setting('server_version'), \
             current_setting('server_version_num')::int, pg_has_role('pg_read_all_stats', 'USAGE')",
    )
    .fetch_one(&mut session.connection)
    .await
    .explain("reading the server's version")?;
    let (encoding, collate, ctype) = Locale::read(session).await?.sorts();
    let mut warnings = Vec::new();
    if !sees_all {
        warnings.push(
            "PostgreSQL does not show the role where sessions of other roles come from. To have it named when they are \
             in the way: GRANT pg_monitor to it."
                .to_owned(),
        );
    }
    Ok(InspectionFindings {
        inspected_at: time(now),
        postgres_version: version,
        postgres_version_num: version_num,
        encoding,
        collate,
        ctype,
        database_bytes: relations::database_bytes(session).await?,
        in_recovery: relations::in_recovery(session).await?,
        warnings,
        ..InspectionFindings::default()
    })
}

/// What Synapse's own tables say.
async fn synapse(
    session: &mut Session,
    tables: &Tables<'_>,
    server_name: Option<&str>,
    findings: &mut InspectionFindings,
) -> Result<()> {
    let warnings = &mut findings.warnings;
    findings.pending_background_updates =
        or_warn(database::pending_background_updates(session, tables).await, warnings)?.unwrap_or_default();
    let checked = sequences::check(session).await?;
    findings.inconsistent_sequences = checked.inconsistent;
    warnings.extend(checked.errors.into_iter().map(|error| error.message));

    let by_users = or_warn(database::server_name(session, tables).await, warnings)?.flatten();
    if let (Some(stated), Some(found)) = (server_name, &by_users)
        && stated != found
    {
        findings.foreign_server = Some(format!("the users in this database are of {found}, not of {stated}"));
    }
    let server_name = server_name.or(by_users.as_deref());
    findings.unused_rooms = or_warn(database::unused_rooms(session, tables, server_name).await, warnings)?.flatten();
    findings.uncensored_redactions =
        or_warn(database::uncensored_redactions(session, tables).await, warnings)?.flatten();
    Ok(())
}

/// A fact that cannot be had is a warning, unless nothing can be had any more.
fn or_warn<T>(fact: Result<T>, warnings: &mut Vec<String>) -> Result<Option<T>> {
    match fact {
        Ok(fact) => Ok(Some(fact)),
        Err(error) if error.reason == "ConnectionLost" => Err(error),
        Err(error) => {
            warnings.push(error.message);
            Ok(None)
        }
    }
}

fn facts(table: &relations::Table) -> TableFacts {
    TableFacts {
        name: table.name.clone(),
        bytes: table.bytes,
        rows: table.rows,
        dead_rows: table.dead_rows,
        last_vacuum: table.last_vacuum.and_then(time),
    }
}

/// Microseconds since 1970, in whole seconds as Kubernetes writes a time.
fn time(microseconds: i64) -> Option<Time> {
    Timestamp::from_second(microseconds.div_euclid(1_000_000)).ok().map(Time)
}

fn foreign_tables(tables: &[relations::Table], connection: &Connection) -> Option<String> {
    let foreign: Vec<&relations::Table> = tables.iter().filter(|table| !table.owned).collect();
    let first = foreign.first()?;
    let vacuum = match foreign.iter().filter(|table| !table.maintained).count() {
        0 => "The role may vacuum them (MAINTAIN), and a restore needs their owner".to_owned(),
        refused => format!("The role may not vacuum {refused} of them"),
    };
    Some(format!(
        "{} of {} tables in {} belong to another role (such as {}, of {}). {vacuum}",
        foreign.len(),
        tables.len(),
        connection.database,
        first.name,
        first.owner
    ))
}
