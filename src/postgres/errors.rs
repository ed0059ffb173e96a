//! Errors of the connection and of PostgreSQL, in words: what it said, why it says so, what to do.
//!
//! PostgreSQL's own message always stands in front, with its SQLSTATE: it is what people search for.

use std::{io, time::Duration};

use sqlx::{
    Error,
    postgres::{PgDatabaseError, PgSeverity},
};

use super::{Result, Target};
use crate::contract::{ErrorClass, TaskError};

/// What to do about a pooler, wherever it is noticed.
pub const POOLER_ADVICE: &str = "A pooler such as PgBouncer stands in between. Locks and settings of a session do not \
    survive there: point postgres.host at PostgreSQL itself.";

/// Turns an error of sqlx into one that a person can act on.
pub trait Explain<T> {
    /// `doing` goes on with "While …".
    ///
    /// # Errors
    /// The same error, explained.
    fn explain(self, doing: &str) -> Result<T>;
}

impl<T> Explain<T> for std::result::Result<T, Error> {
    fn explain(self, doing: &str) -> Result<T> {
        self.map_err(|error| failed(&error, doing))
    }
}

/// PostgreSQL's SQLSTATE, if it is PostgreSQL that speaks.
pub fn sqlstate(error: &Error) -> Option<&str> {
    database(error).map(PgDatabaseError::code)
}

/// What PostgreSQL adds to its words, such as the key of a row.
pub fn detail(error: &Error) -> Option<&str> {
    database(error).and_then(PgDatabaseError::detail)
}

/// What PostgreSQL advises, such as the setting that is too small.
pub fn hint(error: &Error) -> Option<&str> {
    database(error).and_then(PgDatabaseError::hint)
}

/// A statement failed.
pub fn failed(error: &Error, doing: &str) -> TaskError {
    use ErrorClass::{Terminal, Transient};
    let said = said(error);
    let (class, reason, advice) = match (error, sqlstate(error)) {
        (Error::Io(_) | Error::WorkerCrashed, _) => (
            Transient,
            "ConnectionLost",
            "PostgreSQL crashed, or its Pod or node is gone: see its log. Too little memory makes it crash, and a full disk \
             under its WAL.",
        ),
        // A statement that cannot write its table is undone. WAL that cannot be written stops the server.
        (_, Some("53100")) if severity(error) == Some(PgSeverity::Panic) => (
            Terminal,
            "DiskFull",
            "The volume of PostgreSQL's WAL is full, and PostgreSQL stopped. Nothing that was committed is lost, but it may \
             not start again before there is room: make the volume larger.",
        ),
        (_, Some(code)) => meaning(code, hint(error).unwrap_or_default()),
        _ => {
            (Terminal, "DriverError", "This is a bug in synapse-keeper, or something that is not PostgreSQL answered.")
        }
    };
    error_with(class, reason, &format!("While {doing}: {said}"), advice)
}

/// The setting that PostgreSQL names in a hint when its lock table is full: the name is the same in every language.
const LOCK_TABLE: &str = "max_locks_per_transaction";

/// Whether PostgreSQL says that its lock table is full.
pub fn is_of_lock_table(said: &str) -> bool {
    said.contains(LOCK_TABLE)
}

/// What a SQLSTATE means for a task: the words beside it are in the server's language, and only names of settings in them decide.
/// With a reason and what to do.
pub fn meaning(code: &str, said: &str) -> (ErrorClass, &'static str, &'static str) {
    use ErrorClass::{Terminal, Transient};
    match code {
        "57P01" | "57P02" | "57P05" | "25P03" | "25P04" => {
            (Transient, "ConnectionLost", "Somebody ended the session, or PostgreSQL shut down.")
        }
        "53100" => (
            Terminal,
            "DiskFull",
            "The volume of the database is full. PostgreSQL undid the statement; nothing is lost. Make the volume larger.",
        ),
        "53400" => (
            Terminal,
            "TempFileLimit",
            "The server's temp_file_limit is too small for this role to sort an index. Only a superuser may raise it, for \
             example with ALTER ROLE … SET temp_file_limit = -1.",
        ),
        "53200" if is_of_lock_table(said) => LOCK_TABLE_FULL,
        "53200" => (Transient, "OutOfMemory", "PostgreSQL has too little memory."),
        "55P03" => (Transient, "LockTimeout", "Another session holds the lock."),
        "40P01" => (Transient, "Deadlock", "Two sessions waited for each other."),
        "57014" => (Transient, "Canceled", "The statement took too long, or somebody cancelled it."),
        "42501" => (
            Terminal,
            "InsufficientPrivilege",
            "The role of postgres.credentials lacks a right. It must own Synapse's tables, or have the right that PostgreSQL names.",
        ),
        "25006" => (Terminal, "ReadOnly", "The server or the database is read-only: is postgres.host the primary?"),
        _ if code.starts_with("XX") => {
            (Terminal, "DatabaseError", "PostgreSQL reports an internal error: look at its log, and check the disk.")
        }
        _ if code.starts_with("53") || code.starts_with("08") => {
            (Transient, "DatabaseError", "Look at PostgreSQL's log: it lacks something, or a connection broke.")
        }
        _ => (Terminal, "DatabaseError", "Look at PostgreSQL's log, and look the code up in its list of error codes."),
    }
}

/// PostgreSQL's lock table is full. It has the same SQLSTATE as a lack of memory.
pub const LOCK_TABLE_FULL: (ErrorClass, &str, &str) = (
    ErrorClass::Terminal,
    "LockTableTooSmall",
    "PostgreSQL's lock table is full. Set max_locks_per_transaction to twice what SHOW max_locks_per_transaction says, or more \
     (ALTER SYSTEM SET max_locks_per_transaction = …;), and restart PostgreSQL.",
);

/// A connection was refused.
pub fn refused(error: &Error, target: &Target) -> TaskError {
    use ErrorClass::{Terminal, Transient};
    // The driver repeats a character of it.
    let is_of_password = matches!(error, Error::Configuration(why) if why.to_string().contains("saslprep"));
    let said = if is_of_password { "its driver does not take the password".to_owned() } else { said(error) };
    let role = &target.credentials.username;
    let database = &target.database;
    let (class, reason, advice): (_, _, String) = match (error, sqlstate(error)) {
        (_, Some("28P01")) => {
            let wrong = format!("The Secret of postgres.credentials has the wrong password for role {role:?}, or there is no such role.");
            let certificate = "Or pg_hba.conf asks for a client certificate in the role's name (clientcert=verify-full), and that of \
                               postgres.tls.clientSecret is in another one.";
            let certificate = target.client.as_ref().map(|_| certificate);
            let all = [Some(wrong.as_str()), target.credentials.oddity(), certificate];
            (Terminal, "PasswordRefused", all.into_iter().flatten().collect::<Vec<_>>().join(" "))
        }
        (Error::Configuration(_), _) if is_of_password => {
            let oddity = target.credentials.oddity().unwrap_or("It has a character that SCRAM does not allow.");
            (Terminal, "PasswordRefused", format!("Look at the password in the Secret of postgres.credentials. {oddity}"))
        }
        (_, Some("28000")) if is_of_pg_hba(error) => (Terminal, "PgHbaRefused", pg_hba_advice(target)),
        // The function of PostgreSQL's that refuses tells it: its words are in the server's language.
        (_, Some("28000")) if routine(error) == Some("ClientAuthentication") => (
            Terminal,
            "ClientCertificateRequired",
            "pg_hba.conf asks for a client certificate (clientcert): name a Secret with one in postgres.tls.clientSecret.".to_owned(),
        ),
        (_, Some("28000")) if routine(error) == Some("auth_failed") && target.client.is_some() => (
            Terminal,
            "ClientCertificateRefused",
            format!(
                "The certificate of postgres.tls.clientSecret is not in the name of role {role:?}: PostgreSQL compares its common \
                 name, or what pg_ident.conf makes of it."
            ),
        ),
        (_, Some("28000")) if routine(error) == Some("auth_failed") => (
            Terminal,
            "RoleRefused",
            format!("pg_hba.conf asks role {role:?} for something else than a password, such as a certificate (cert) or peer."),
        ),
        (_, Some("28000")) => {
            (Terminal, "RoleRefused", format!("Does role {role:?} exist, and may it log in (ALTER ROLE … LOGIN)?"))
        }
        (_, Some("3D000")) => {
            (Terminal, "DatabaseMissing", format!("postgres.database names {database:?}, which is not on this server."))
        }
        (_, Some("42501")) => (
            Terminal,
            "ConnectDenied",
            format!("Role {role:?} may not connect: GRANT CONNECT ON DATABASE {database:?} TO {role:?}."),
        ),
        (_, Some("53300")) => {
            (Transient, "TooManyConnections", "PostgreSQL has no free connection: raise max_connections.".to_owned())
        }
        (_, Some("57P03")) => (Transient, "StartingUp", "PostgreSQL is starting, stopping or recovering.".to_owned()),
        (_, Some("42704")) if said.contains("client_connection_check_interval") => {
            (Terminal, "PostgresTooOld", "This PostgreSQL is older than 14, which Synapse does not support.".to_owned())
        }
        // PgBouncer's answer to settings in the start message, and to a database that it does not know.
        (_, Some("08P01")) if said.contains("unsupported startup parameter") => {
            (Terminal, "Pooler", POOLER_ADVICE.to_owned())
        }
        (_, Some(_)) => return failed(error, &format!("connecting to PostgreSQL at {target}")),
        (Error::Tls(_), _) if said.contains("does not support TLS") => (
            Terminal,
            "TlsNotOffered",
            "The server speaks no TLS: set `ssl = on` in PostgreSQL, or a weaker postgres.tls.mode.".to_owned(),
        ),
        (Error::Io(io), _) if tls_error(io).is_some() => (Terminal, "TlsRefused", tls_advice(io, target)),
        (Error::Tls(_) | Error::Configuration(_), _) => (
            Terminal,
            "TlsRefused",
            "Look at postgres.tls: the mode, and the Secrets of the certificate authority and of the client's certificate.".to_owned(),
        ),
        (Error::Io(io), _) => match io.kind() {
            io::ErrorKind::ConnectionRefused => (
                Transient,
                "ConnectionRefused",
                "Nothing listens there: is PostgreSQL running, is the port right, does listen_addresses allow it?".to_owned(),
            ),
            io::ErrorKind::NotFound => {
                (Terminal, "SocketMissing", "There is no Unix socket of PostgreSQL in this directory.".to_owned())
            }
            _ => (
                Transient,
                "ConnectionLost",
                "The server closed the connection before it answered: is this PostgreSQL, and is it healthy? A service \
                 mesh between them may also do this: see spec.jobs.labels and annotations."
                    .to_owned(),
            ),
        },
        // The driver takes the end of the connection for a byte.
        (Error::Protocol(said), _) if said.contains("SSLRequest: 0x00") => {
            return refused(&Error::Io(io::ErrorKind::UnexpectedEof.into()), target);
        }
        // What answers is no PostgreSQL: its first bytes make no sense.
        _ => (Terminal, "NotPostgres", "Is this the port of PostgreSQL?".to_owned()),
    };
    error_with(class, reason, &format!("PostgreSQL at {target} cannot be used: {said}"), &advice)
}

/// The host's name did not resolve. Another try may help: a Service can be a moment younger than the Job.
pub fn unresolved(target: &Target, said: &str) -> TaskError {
    TaskError::transient(
        "HostUnresolved",
        format!(
            "The name {:?} of postgres.host does not resolve: {said}. Is it spelt right, with the namespace where it is in \
             another one (<service>.<namespace>)? Does a NetworkPolicy keep the Job from the cluster's DNS?",
            target.host
        ),
    )
}

/// Nothing came back at all.
pub fn no_answer(target: &Target, after: Duration) -> TaskError {
    TaskError::transient(
        "NoAnswer",
        format!(
            "PostgreSQL at {target} did not answer within {} s. A NetworkPolicy or a firewall may drop the packets.",
            after.as_secs()
        ),
    )
}

fn error_with(class: ErrorClass, reason: &str, said: &str, advice: &str) -> TaskError {
    TaskError { class, reason: reason.to_owned(), message: format!("{said}. {advice}") }
}

fn severity(error: &Error) -> Option<PgSeverity> {
    database(error).map(PgDatabaseError::severity)
}

fn database(error: &Error) -> Option<&PgDatabaseError> {
    match error {
        Error::Database(error) => error.try_downcast_ref::<PgDatabaseError>(),
        _ => None,
    }
}

/// The function of PostgreSQL's that reports an error.
fn routine(error: &Error) -> Option<&str> {
    database(error).and_then(PgDatabaseError::routine)
}

/// PostgreSQL's words with its SQLSTATE, or those of the operating system or the TLS library.
fn said(error: &Error) -> String {
    match (error, database(error)) {
        (_, Some(database)) => {
            let detail = database.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            format!("{}{detail} [{}]", database.message(), database.code())
        }
        // What a crash looks like from here. The TLS library's words for it would mislead.
        (Error::Io(io), _) if io.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection ended without a word".to_owned()
        }
        (Error::Io(io), _) => io.to_string(),
        (Error::Tls(tls), _) => tls.to_string(),
        _ => error.to_string(),
    }
}

/// Whether a connection was refused by `pg_hba.conf`: the file's name is the same in every language.
pub fn is_of_pg_hba(error: &Error) -> bool {
    sqlstate(error) == Some("28000") && database(error).is_some_and(|error| error.message().contains("pg_hba.conf"))
}

/// `pg_hba.conf` lets the role in with TLS, and without it does not.
pub fn wants_tls(error: &Error, target: &Target) -> TaskError {
    let Target { database, credentials, .. } = target;
    let role = &credentials.username;
    let advice = format!(
        "pg_hba.conf has no line that lets role {role:?} into database {database:?} without TLS, and has one with TLS: set \
         postgres.tls.mode to require."
    );
    let said = format!("PostgreSQL at {target} cannot be used: {}", said(error));
    error_with(ErrorClass::Terminal, "PgHbaRefused", &said, &advice)
}

fn pg_hba_advice(target: &Target) -> String {
    let Target { database, credentials, .. } = target;
    let role = &credentials.username;
    format!(
        "pg_hba.conf has no line that lets role {role:?} into database {database:?} from the address of the Job's Pod: add \
         one (`host {database} {role} <pod network> scram-sha-256`) and reload."
    )
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn tls_advice(error: &io::Error, target: &Target) -> String {
    use rustls::{
        AlertDescription as Alert, CertificateError as Certificate,
        Error::{AlertReceived, InvalidCertificate},
    };
    match tls_error(error) {
        // A bad signature: an authority of the same name, but with another key.
        Some(InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature)) => match &target.ca_file {
            Some(_) => {
                "The certificate authority of postgres.tls.caSecret did not sign the server's certificate.".to_owned()
            }
            None => "No authority that this machine trusts signed the server's certificate: name the right one in \
                     postgres.tls.caSecret."
                .to_owned(),
        },
        Some(InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. })) => format!(
            "The server's certificate is not for {:?}: use a name that it is for in postgres.host, or mode verify-ca.",
            target.host
        ),
        Some(InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. })) => {
            "The server's certificate has expired: renew it.".to_owned()
        }
        Some(AlertReceived(alert)) if target.client.is_some() => match alert {
            // The latter: another authority of the same name.
            Alert::UnknownCA | Alert::DecryptError => {
                "The server does not know the authority of the certificate in postgres.tls.clientSecret (ssl_ca_file)."
            }
            Alert::CertificateExpired => "The certificate in postgres.tls.clientSecret has expired: renew it.",
            _ => "The server does not take the certificate in postgres.tls.clientSecret: its log says why.",
        }
        .to_owned(),
        _ => "Look at postgres.tls and at the server's certificate.".to_owned(),
    }
}
