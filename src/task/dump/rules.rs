//! What of a dump is run, what is left out, and what makes it a refused one. Pure.
//!
//! A list of what is allowed, not of what is forbidden: a `pg_dumpall` file, a script that somebody wrote, or what a later
//! `pg_dump` writes and we do not know, is refused before it is run. Everything is run in the new database alone, one
//! statement at a time, as Synapse's own role; but that role may be a superuser, and what reaches another database,
//! a role, a file or a program must not depend on it.

use crate::task::{
    schema::belongs::{Need, needs},
    sql::statement::Statement,
};

/// What becomes of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Run,
    /// It makes no difference here.
    PassOver,
    /// It is not run, and people are told: of this kind, such as `owners`.
    LeaveOut(&'static str),
    /// A materialized view of this name, as it is written there, is to be filled: when all rows are there.
    Refresh(String),
    /// Rows of this table follow, as it is written there.
    Rows(String),
    /// It has rows of this table in it.
    Values(String),
}

/// Settings that the rest of a dump relies on.
const APPLIED: [&str; 4] = ["SEARCH_PATH", "CHECK_FUNCTION_BODIES", "XMLOPTION", "ROW_SECURITY"];

/// Settings of a session that a dump begins with and that are ours to choose. Some are unknown to older servers.
const OUR_OWN: [&str; 10] = [
    "STATEMENT_TIMEOUT",
    "LOCK_TIMEOUT",
    "IDLE_IN_TRANSACTION_SESSION_TIMEOUT",
    "TRANSACTION_TIMEOUT",
    "CLIENT_MIN_MESSAGES",
    "DEFAULT_TABLESPACE",
    "DEFAULT_TABLE_ACCESS_METHOD",
    "DEFAULT_WITH_OIDS",
    "ESCAPE_STRING_WARNING",
    "QUOTE_ALL_IDENTIFIERS",
];

/// What Synapse's schema may consist of.
const MADE: [&str; 17] = [
    "AGGREGATE",
    "COLLATION",
    "DOMAIN",
    "POLICY",
    "PROCEDURE",
    "TABLE",
    "UNLOGGED",
    "SEQUENCE",
    "INDEX",
    "UNIQUE",
    "VIEW",
    "MATERIALIZED",
    "FUNCTION",
    "TRIGGER",
    "TYPE",
    "SCHEMA",
    "STATISTICS",
];

const CHANGED: [&str; 10] =
    ["TABLE", "SEQUENCE", "INDEX", "VIEW", "MATERIALIZED", "FUNCTION", "TYPE", "SCHEMA", "STATISTICS", "DOMAIN"];

/// What reaches beyond the new database, with what a person can do.
const BEYOND: [&str; 6] = ["DATABASE", "ROLE", "USER", "GROUP", "TABLESPACE", "SYSTEM"];

/// Judges a statement.
///
/// # Errors
/// Why the dump is refused.
pub fn judge(statement: &Statement) -> Result<Verdict, String> {
    let first: Vec<String> = statement.tokens().take(4).collect();
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    match first[..] {
        // A semicolon alone. Or it is about large objects, which are left out.
        [] | ["BEGIN"] | ["COMMIT"] => Ok(Verdict::PassOver),
        ["SET" | "RESET", "SESSION", "AUTHORIZATION", ..] => Ok(Verdict::LeaveOut(OWNERS)),
        ["SET", name, ..] => setting(name, statement),
        // The same list as for a backup.
        _ if superuser_s(statement).is_some() => {
            Ok(superuser_s(statement).map_or(Verdict::PassOver, Verdict::LeaveOut))
        }
        ["SELECT", "PG_CATALOG", ".", function] => call(function, statement),
        ["REFRESH", "MATERIALIZED", "VIEW", ..] => refresh(statement),
        ["COPY", ..] => rows(statement).map(Verdict::Rows),
        ["INSERT", "INTO", ..] => values(statement),
        ["CREATE" | "ALTER" | "DROP", what, ..] if BEYOND.contains(&what) => Err(BEYOND_THE_DATABASE.to_owned()),
        // Everything is made by the role that will own it.
        ["ALTER", ..] if gives_to_an_owner(statement) => Ok(Verdict::LeaveOut(OWNERS)),
        ["GRANT" | "REVOKE", ..] | ["ALTER", "DEFAULT", "PRIVILEGES", ..] => Ok(Verdict::LeaveOut("rights")),
        ["CREATE" | "ALTER" | "DROP", "EXTENSION", ..] => Ok(Verdict::LeaveOut("extensions")),
        ["CREATE" | "ALTER" | "DROP", "PUBLICATION", ..] => Ok(Verdict::LeaveOut("publications")),
        ["COMMENT" | "SECURITY", ..] => Ok(Verdict::LeaveOut("comments")),
        // Of `pg_dump --clean`: the new database has none of it, and has this schema.
        ["DROP", ..] | ["CREATE", "SCHEMA", "PUBLIC", ..] => Ok(Verdict::PassOver),
        ["ALTER", "TABLE", ..] if drops(statement) => Ok(Verdict::PassOver),
        ["CREATE", what, ..] if MADE.contains(&what) => Ok(Verdict::Run),
        ["ALTER", what, ..] if CHANGED.contains(&what) => Ok(Verdict::Run),
        _ => Err(UNKNOWN.to_owned()),
    }
}

/// Judges what only `psql` understands. A dump of a `pg_dump` since August 2025 begins and ends with such a line, which keeps
/// `psql` from obeying others (CVE-2025-8714).
///
/// # Errors
/// Why the dump is refused.
pub fn judge_command(command: &str) -> Result<(), String> {
    match command.split_whitespace().next() {
        Some("\\restrict" | "\\unrestrict") => Ok(()),
        Some("\\connect" | "\\c") => Err(BEYOND_THE_DATABASE.to_owned()),
        _ => Err("psql would do more with it than fill a database".to_owned()),
    }
}

const OWNERS: &str = "owners";

const UNKNOWN: &str = "pg_dump writes nothing of the kind for a database of Synapse";

const BEYOND_THE_DATABASE: &str = "it reaches beyond the database that is restored, as the files of pg_dumpall and of \
                                   pg_dump --create do; dump the one database, with pg_dump and without --create";

fn setting(name: &str, statement: &Statement) -> Result<Verdict, String> {
    let tokens: Vec<String> = statement.tokens().collect();
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    match words[..] {
        ["SET", "CLIENT_ENCODING", _, "'UTF8'"] | ["SET", "STANDARD_CONFORMING_STRINGS", _, "ON"] => {
            Ok(Verdict::PassOver)
        }
        ["SET", "CLIENT_ENCODING", ..] => Err("it is not UTF-8: dump with --encoding=UTF8".to_owned()),
        _ if APPLIED.contains(&name) => Ok(Verdict::Run),
        _ if OUR_OWN.contains(&name) => Ok(Verdict::PassOver),
        _ => Err(UNKNOWN.to_owned()),
    }
}

/// What only a superuser can make, by its kind. Extensions have a rule of their own.
fn superuser_s(statement: &Statement) -> Option<&'static str> {
    needs(statement).into_iter().find_map(|need| match need {
        Need::Superuser(kind) => Some(kind.plural()),
        _ => None,
    })
}

/// `REFRESH MATERIALIZED VIEW public.counted`
fn refresh(statement: &Statement) -> Result<Verdict, String> {
    let tokens: Vec<String> = statement.tokens().collect();
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    match target(&words[3..]) {
        Some((view, [])) => Ok(Verdict::Refresh(view)),
        _ => Err(UNKNOWN.to_owned()),
    }
}

/// The two functions that a dump calls, with nothing but texts, numbers and names of truth.
fn call(function: &str, statement: &Statement) -> Result<Verdict, String> {
    let tokens: Vec<String> = statement.tokens().skip(4).collect();
    let is_plain = |token: &String| {
        token.starts_with('\'')
            || matches!(token.as_str(), "TRUE" | "FALSE" | "-")
            || token.bytes().all(|byte| byte.is_ascii_digit())
    };
    let inner = tokens.strip_prefix(&["(".to_owned()]).and_then(|rest| rest.strip_suffix(&[")".to_owned()]));
    let is_known = match (function, tokens.get(1).map(String::as_str)) {
        ("SETVAL", _) => true,
        ("SET_CONFIG", Some(setting)) => setting == "'search_path'",
        _ => false,
    };
    match inner {
        Some(inner) if is_known && inner.iter().all(|token| token == "," || is_plain(token)) => Ok(Verdict::Run),
        _ => Err(UNKNOWN.to_owned()),
    }
}

/// `COPY public.events (a, "B") FROM stdin` and nothing else: no file, no program, no query, no option.
fn rows(statement: &Statement) -> Result<String, String> {
    let tokens: Vec<String> = statement.tokens().collect();
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    match target(&words[1..]) {
        Some((table, ["FROM", "STDIN"])) => Ok(table),
        _ => Err("COPY may only bring the rows that follow it, not read or write files or programs".to_owned()),
    }
}

/// `INSERT INTO public.events (a, "B") VALUES (1, 'b')`: of `pg_dump --inserts`. Nothing is called.
fn values(statement: &Statement) -> Result<Verdict, String> {
    let tokens: Vec<String> = statement.tokens().collect();
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    const REFUSED: &str = "INSERT may only bring values";
    let (table, rest) = target(&words[2..]).ok_or(REFUSED)?;
    let rest = rest.strip_prefix(&["OVERRIDING", "SYSTEM", "VALUE"]).unwrap_or(rest);
    let rest = rest.strip_suffix(&["ON", "CONFLICT", "DO", "NOTHING"]).unwrap_or(rest);
    match rest {
        // A row of a table without columns.
        ["DEFAULT", "VALUES"] => Ok(Verdict::Values(table)),
        ["VALUES", values @ ..] if are_values(values) => Ok(Verdict::Values(table)),
        _ => Err(REFUSED.to_owned()),
    }
}

/// Texts, numbers (`1e+30`), bits (`B'01'`), and their lists.
fn are_values(tokens: &[&str]) -> bool {
    tokens.iter().enumerate().all(|(at, token)| match *token {
        "TRUE" | "FALSE" | "NULL" | "DEFAULT" | "+" => true,
        "B" | "X" | "E" => tokens.get(at + 1).is_some_and(|next| next.starts_with('\'')),
        token => {
            token.starts_with(['\'', '(', ')', ',', '-', '.'])
                || token.starts_with(|first: char| first.is_ascii_digit())
        }
    })
}

/// A table, its columns if they stand there, and what follows.
fn target<'a>(words: &'a [&'a str]) -> Option<(String, &'a [&'a str])> {
    let (name, rest) = match words {
        [schema, ".", table, rest @ ..] if is_name(schema) && is_name(table) => {
            (format!("{}.{}", as_written(schema), as_written(table)), rest)
        }
        [table, rest @ ..] if is_name(table) => (as_written(table), rest),
        _ => return None,
    };
    let ["(", columns @ ..] = rest else { return Some((name, rest)) };
    let end = columns.iter().position(|word| *word == ")")?;
    let are_names =
        columns[..end].chunks(2).all(|pair| is_name(pair[0]) && pair.get(1).is_none_or(|next| *next == ","));
    are_names.then(|| (name, &columns[end + 1..]))
}

fn is_name(token: &str) -> bool {
    let mut bytes = token.bytes();
    match bytes.next() {
        Some(b'"') => token.len() > 2,
        Some(first) => {
            !first.is_ascii_digit() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80)
        }
        None => false,
    }
}

/// A name without quotes is one in small letters.
fn as_written(name: &str) -> String {
    if name.starts_with('"') { name.to_owned() } else { name.to_ascii_lowercase() }
}

fn gives_to_an_owner(statement: &Statement) -> bool {
    let last: Vec<String> = statement.tokens().rev().take(3).collect();
    matches!(last.iter().map(String::as_str).collect::<Vec<_>>()[..], [_, "TO", "OWNER"])
}

/// `ALTER TABLE … DROP CONSTRAINT`, which makes room for what follows.
fn drops(statement: &Statement) -> bool {
    statement.tokens().skip(2).take(8).any(|token| token == "DROP")
}

#[cfg(test)]
mod tests;
