//! The PostgreSQL beside the task.

use std::time::{Duration, Instant};

use super::Arguments;
use crate::{
    api::postgres::TlsMode,
    contract::{Result, TaskError, output::progress},
    postgres::{Application, Credentials, Explain, Locale, Target},
    quote,
    synapse::database,
};

/// The PostgreSQL beside the task does not answer: what it printed says why.
pub const SILENT: &str = "ScratchServerSilent";

/// Who owns what is restored: as Synapse's role it is no superuser.
const OWNER: &str = "synapse_keeper_drill";
/// Who makes its database: as the role of `postgres.adminCredentials` it is no superuser either.
const ADMINISTRATOR: &str = "synapse_keeper_drill_admin";

/// Waits until it answers.
///
/// # Errors
/// Transient, [`SILENT`]. Terminal, `ScratchServerDiffers`: it is of another major than the backup.
pub async fn ready(arguments: &Arguments, wanted: i32) -> Result<Target> {
    let target = Target {
        host: arguments.socket.display().to_string(),
        port: arguments.port,
        database: "postgres".to_owned(),
        tls: TlsMode::Disable,
        ca_file: None,
        client: None,
        credentials: Credentials { username: arguments.username.clone(), password: String::new() },
        application: Application { operation: "drill".to_owned(), run: 0, attempt: 0 },
    };
    let began = Instant::now();
    let session = loop {
        match target.connect().await {
            Ok(session) => break session,
            Err(error) if began.elapsed() >= Duration::from_secs(arguments.patience) => {
                return Err(TaskError::transient(
                    SILENT,
                    format!(
                        "The throw-away PostgreSQL has not answered within {} s ({}). Is spec.verify.image one that starts as \
                         the official image postgres does, and spec.verify.runAsUser its user?",
                        arguments.patience, error.message
                    ),
                ));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    };
    let (found, wanted) = (session.version / 10_000, wanted / 10_000);
    if found != wanted {
        return Err(TaskError::terminal(
            "ScratchServerDiffers",
            format!(
                "The throw-away PostgreSQL is {found} and the backup is one of PostgreSQL {wanted}: set spec.verify.image to \
                 an image of that major."
            ),
        ));
    }
    progress("the throw-away PostgreSQL answers");
    Ok(target)
}

/// Makes the roles of the drill, those that a restore has, and these: roles that the real server has and policies name.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn make_roles(server: &Target, named: &[String]) -> Result<()> {
    let mut session = server.connect().await?;
    let own = [format!("CREATE ROLE {OWNER} LOGIN"), format!("CREATE ROLE {ADMINISTRATOR} LOGIN CREATEDB")];
    let named = named.iter().map(|role| format!("CREATE ROLE {} NOLOGIN", quote::ident(role)));
    for statement in own.into_iter().chain(named) {
        // Another drill on this server may make it at the same moment.
        let unless_there = format!(
            "DO $synapse_keeper$ BEGIN {statement}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END \
             $synapse_keeper$"
        );
        session.execute(&unless_there).await.explain("making the roles of the drill")?;
    }
    let grant = format!(
        "DO $synapse_keeper$ BEGIN IF NOT pg_has_role('{ADMINISTRATOR}', '{OWNER}', 'MEMBER') THEN \
         GRANT {OWNER} TO {ADMINISTRATOR}; END IF; END $synapse_keeper$"
    );
    session.execute(&grant).await.explain("making the roles of the drill")
}

/// Makes the database that Synapse's is restored into, and says how to reach it as its owner.
///
/// # Errors
/// Those of PostgreSQL; also where there is one of that name.
pub async fn make_database(server: &Target, name: &str) -> Result<Target> {
    make(server, name, &database::locale()).await
}

/// Makes the database that another one is restored into. Where the image lacks its locale, with Synapse's: text has another
/// order in it, and the same rows.
///
/// # Errors
/// Those of PostgreSQL; also where there is one of that name.
pub async fn make_another(server: &Target, name: &str, locale: &Locale) -> Result<Target> {
    let is_known = locale.is_known(&mut server.connect().await?).await?;
    let locale = if is_known { locale.clone() } else { database::locale() };
    make(server, name, &locale).await
}

async fn make(server: &Target, name: &str, locale: &Locale) -> Result<Target> {
    let mut session = in_the_role(server, ADMINISTRATOR).connect().await?;
    let creation = locale.creation(name, Some(OWNER), session.version);
    session.execute(&creation).await.explain("making the database for the drill")?;
    Ok(in_the_role(server, OWNER).to(name))
}

/// The throw-away server asks nobody for a password.
fn in_the_role(server: &Target, role: &str) -> Target {
    let credentials = Credentials { username: role.to_owned(), password: String::new() };
    Target { credentials, ..server.clone() }
}
