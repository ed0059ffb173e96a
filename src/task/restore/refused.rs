//! What PostgreSQL refused while a database was filled: whether another try helps, and whether it speaks of the data. By its
//! SQLSTATE, for its words are in the server's language. Pure.

use crate::{
    contract::{ErrorClass, TaskError},
    postgres::{errors, said},
};

/// PostgreSQL does not take what it was given.
pub const REFUSED: &str = "RestoreFailed";

/// What it was given names something that this server does not have.
pub const LACKING: &str = "ServerLacks";

/// As many lines of what a program complains of are repeated.
const LINES: usize = 5;

/// By a SQLSTATE.
pub fn by_code(code: &str, said: &str) -> TaskError {
    let (class, reason, advice) = errors::meaning(code, said);
    let told = |reason: &str, advice: &str| TaskError {
        class,
        reason: reason.to_owned(),
        message: format!("{said} [{code}]. {advice}"),
    };
    match (class, reason, code) {
        (_, "DiskFull", _) => {
            told(reason, "The volume of the database is full. Nothing was replaced: make the volume larger.")
        }
        // feature_not_supported (an extension), undefined_object (a role, a tablespace), undefined_file (a library).
        (_, _, "0A000" | "42704" | "58P01") => told(LACKING, "This server lacks it. Nothing was replaced."),
        (ErrorClass::Terminal, "DatabaseError", _) => told(REFUSED, "Nothing was replaced."),
        _ => told(reason, &format!("{advice} Nothing was replaced.")),
    }
}

/// By what `psql` printed: the first error is what the rest comes from. Without one of PostgreSQL's, another try may help.
pub fn by_psql(printed: &str) -> TaskError {
    match said::refusals(printed).first() {
        Some(refusal) => by_code(&refusal.code, &format!("psql: {}", refusal.words)),
        None => by_program("psql", printed),
    }
}

/// A program complains, and PostgreSQL has refused nothing.
pub fn by_program(program: &str, printed: &str) -> TaskError {
    let lines: Vec<&str> = printed.lines().map(str::trim).filter(|line| !line.is_empty()).take(LINES).collect();
    if errors::is_of_lock_table(printed) {
        let (class, reason, advice) = errors::LOCK_TABLE_FULL;
        let message = format!("{program}: {}. {advice} Nothing was replaced.", lines.join("; "));
        return TaskError { class, reason: reason.to_owned(), message };
    }
    TaskError::transient("FillFailed", format!("{program}: {}. Nothing was replaced.", lines.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_in_every_language() {
        let reason = |printed: &str| {
            let error = by_psql(printed);
            (error.reason, error.class == ErrorClass::Terminal)
        };
        for (printed, expected, is_terminal) in [
            ("psql:<stdin>:5: FEHLER:  53100: konnte Datei »base/1/2« nicht erweitern", "DiskFull", true),
            ("psql:<stdin>:5: ERROR:  23505: duplicate key value violates unique constraint", REFUSED, true),
            ("psql:<stdin>:5: FEHLER:  54000: Indexzeilengröße 3552 überschreitet Maximum", REFUSED, true),
            ("psql:<stdin>:5: FEHLER:  42704: Rolle »x« existiert nicht", LACKING, true),
            ("psql:<stdin>:5: FEHLER:  53200: Speicher aufgebraucht", "OutOfMemory", false),
            (
                "psql:<stdin>:5: FEHLER:  53200: kein Shared Memory mehr\nTIP:  Erhöhen Sie »max_locks_per_transaction«.",
                "LockTableTooSmall",
                true,
            ),
            ("psql:<stdin>:5: FATAL:  57P01: Verbindung wird abgebrochen", "ConnectionLost", false),
            ("psql: server closed the connection unexpectedly", "FillFailed", false),
        ] {
            assert_eq!(reason(printed), (expected.to_owned(), is_terminal), "{printed}");
        }
    }
}
