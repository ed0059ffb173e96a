//! The settings of every session: of ours, and of the programs that we start. What somebody has set for a role, a database or
//! the whole server is for others, and must not change what we do.
//!
//! They travel in the connection's start message. So they win over `ALTER ROLE`, `ALTER DATABASE` and the server's files, hold
//! from the first statement on, and never leak into a server session that a pooler would hand to somebody else. Each place adds
//! only what is its own.
//!
//! What only a superuser may set is not in here: `temp_file_limit` (its error is named, see [`super::errors`]), `lc_messages`
//! (no decision rests on words) and `session_replication_role` (where it is `replica`, triggers and foreign keys do not fire; no
//! statement of ours counts on one). `search_path` is not in here either: it says where Synapse's tables are.

/// A setting and its value.
pub type Setting = (&'static str, &'static str);

/// What PostgreSQL 14 and everything newer knows.
const OF_ALL: [Setting; 32] = [
    // A killed client does not stop its statement: VACUUM FULL would go on holding its lock. With this, PostgreSQL looks
    // each second whether the client is still there. It stands first: an older server refuses it by its name.
    ("client_connection_check_interval", "1s"),
    // The same for a node that is gone without closing its connections.
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30s"),
    // A session waits for hours while restic or another session works.
    ("idle_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    // Rows that a policy hides would be missing without a word: an error is better.
    ("row_security", "off"),
    // How values are written and read.
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    ("array_nulls", "on"),
    // How statements are read, and names written.
    ("standard_conforming_strings", "on"),
    ("escape_string_warning", "off"),
    ("backslash_quote", "safe_encoding"),
    ("transform_null_equals", "off"),
    ("quote_all_identifiers", "off"),
    // Where new tables are.
    ("default_tablespace", ""),
    ("temp_tablespaces", ""),
    ("default_table_access_method", "heap"),
    ("client_min_messages", "warning"),
    // VACUUM that nobody slows down.
    ("vacuum_cost_delay", "0"),
    // Parallel workers share memory in /dev/shm, of which a container has 64 MiB by default.
    ("max_parallel_workers_per_gather", "0"),
    ("max_parallel_maintenance_workers", "0"),
    // Compiling takes longer than our statements, where somebody has made it cheap.
    ("jit", "off"),
];

/// For reading; a task that vacuums sets its own.
const OF_SESSIONS: [Setting; 3] = [
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "60s"),
    // Waiting for a lock makes everybody else queue behind us.
    ("lock_timeout", "10s"),
];

/// They copy whole tables and make indexes.
const OF_PROGRAMS: [Setting; 3] =
    [("statement_timeout", "0"), ("idle_in_transaction_session_timeout", "0"), ("lock_timeout", "0")];

/// What an older server does not know, with the first version that does (`server_version_num`): in a start message it would
/// refuse the connection.
const NEWER: [(i32, Setting); 1] = [(170_000, ("transaction_timeout", "0"))];

/// For the start message of a session of ours.
pub fn of_sessions() -> impl Iterator<Item = Setting> {
    OF_ALL.into_iter().chain(OF_SESSIONS)
}

/// The statements for a session of ours whose server's version is known by now.
pub fn once_connected(version: i32) -> Option<String> {
    let statements: Vec<String> = newer(version).map(|(name, value)| format!("SET {name} = {value}")).collect();
    (!statements.is_empty()).then(|| statements.join("; "))
}

/// For `PGOPTIONS` of a program that connects to a server of this version, with settings of its own.
pub fn of_program(version: i32, own: &[Setting]) -> String {
    let settings = OF_ALL.into_iter().chain(OF_PROGRAMS).chain(newer(version)).chain(own.iter().copied());
    settings.map(|(name, value)| format!("-c {name}={}", escaped(value))).collect::<Vec<_>>().join(" ")
}

fn newer(version: i32) -> impl Iterator<Item = Setting> {
    NEWER.into_iter().filter(move |(since, _)| version >= *since).map(|(_, setting)| setting)
}

/// A blank ends an option.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(' ', "\\ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_only_of_settings_that_it_knows() {
        assert_eq!(once_connected(160_010), None);
        assert_eq!(once_connected(170_000).as_deref(), Some("SET transaction_timeout = 0"));
        assert!(!of_program(169_999, &[]).contains("transaction_timeout"));
        assert!(of_program(180_006, &[]).contains("-c transaction_timeout=0"));
        assert!(of_sessions().all(|(name, _)| name != "transaction_timeout"));
    }

    #[test]
    fn a_program_gets_its_own_last() {
        let options = of_program(150_000, &[("lock_timeout", "7s")]);
        assert!(options.starts_with("-c client_connection_check_interval=1s "), "{options}");
        assert!(options.contains(" -c DateStyle=ISO,\\ MDY "), "{options}");
        assert!(options.contains(" -c default_tablespace= "), "{options}");
        assert!(options.ends_with(" -c lock_timeout=7s"), "{options}");
    }

    #[test]
    fn each_setting_stands_once() {
        let mut names: Vec<&str> = of_sessions().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
