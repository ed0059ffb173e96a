//! Which of the client programs that are there suit a server: those of its own major, or else of the next newer one.
//!
//! An older `pg_dump` refuses a newer server; a newer one reads an older server well. What it writes comes back into the server's
//! own major, as long as a restore knows two things: an archive wants a `pg_restore` that is not older than its `pg_dump`, and
//! since 17 what `pg_restore` says begins with a setting that older servers refuse.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What `pg_restore` sets since 17.
const SETTING: &str = "SET transaction_timeout = 0;\n";

/// The first server that knows it.
const KNOWS_SETTING: i32 = 17;

/// One set of programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    pub major: i32,
    /// `None`: on the PATH.
    pub directory: Option<PathBuf>,
}

/// Those of the lowest major that is not older; of two equals the first.
pub fn choose(there: Vec<Clients>, oldest: i32) -> Option<Clients> {
    there.into_iter().filter(|clients| clients.major >= oldest).min_by_key(|clients| clients.major)
}

/// What there is, for people: `that of 13 and 15`.
pub fn told(there: &[Clients]) -> String {
    let majors: BTreeSet<i32> = there.iter().map(|clients| clients.major).collect();
    let majors: Vec<String> = majors.iter().map(i32::to_string).collect();
    if majors.is_empty() { "none at all".to_owned() } else { format!("that of {}", majors.join(" and ")) }
}

/// All that are installed side by side, as Debian and PGDG do it: `15/bin`, `17/bin`.
pub fn installed(folder: &Path) -> Vec<Clients> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let clients = entries.filter_map(|entry| {
        let major = entry.file_name().to_str()?.parse().ok()?;
        let directory = entry.path().join("bin");
        directory.join("pg_dump").exists().then_some(Clients { major, directory: Some(directory) })
    });
    clients.collect()
}

/// The major of a program: `pg_dump (PostgreSQL) 17.6 (Debian 17.6-0)`.
pub fn major_of(said: &str) -> Option<i32> {
    let digits = |version: &str| version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    said.split_whitespace().nth(2).and_then(digits)
}

/// The oldest `pg_restore` that reads an archive which begins so.
pub fn reads_archive(head: &[u8]) -> i32 {
    match head.strip_prefix(b"PGDMP") {
        // Of a release that is newer than all that are known here.
        Some([1, minor, ..]) if *minor > 16 => 19,
        Some([1, 16, ..]) => 17,
        Some([1, 15, ..]) => 16,
        _ => 0,
    }
}

/// Whether a server of one major takes all that `pg_restore` of another says to it.
pub fn are_understood(clients: i32, server: i32) -> bool {
    clients < KNOWS_SETTING || server >= KNOWS_SETTING
}

/// What `pg_restore` wrote as a script, without what an older server refuses. It stands at the beginning.
pub fn for_older(script: &str) -> String {
    script.replacen(SETTING, "", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(majors: &[i32]) -> Vec<Clients> {
        majors.iter().map(|major| Clients { major: *major, directory: None }).collect()
    }

    #[test]
    fn the_server_s_own_come_first_and_then_the_next_newer_ones() {
        for (there, oldest, chosen) in [
            (&[15, 17, 18][..], 15, Some(15)),
            (&[18, 17, 15], 16, Some(17)),
            (&[15, 17], 14, Some(15)),
            (&[15, 17], 18, None),
            (&[], 15, None),
        ] {
            assert_eq!(choose(clients(there), oldest).map(|clients| clients.major), chosen, "{there:?} for {oldest}");
        }
    }

    #[test]
    fn people_hear_what_there_is() {
        assert_eq!(told(&clients(&[15, 13, 15])), "that of 13 and 15");
        assert_eq!(told(&[]), "none at all");
    }

    #[test]
    fn side_by_side_are_those_with_a_pg_dump() {
        let folder = tempfile::tempdir().unwrap();
        for (major, program) in [("15", "pg_dump"), ("17", "pg_dump"), ("18", "postgres"), ("common", "pg_dump")] {
            let directory = folder.path().join(major).join("bin");
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(program), "").unwrap();
        }
        let mut majors: Vec<i32> = installed(folder.path()).iter().map(|clients| clients.major).collect();
        majors.sort_unstable();
        assert_eq!(majors, [15, 17]);
        assert_eq!(installed(Path::new("/nowhere")), []);
    }

    #[test]
    fn a_version_is_read_whoever_built_it() {
        for (said, major) in [
            ("pg_dump (PostgreSQL) 17.6 (Debian 17.6-0)\n", Some(17)),
            ("pg_dump (PostgreSQL) 18.6", Some(18)),
            ("pg_dump (PostgreSQL) 19beta1", Some(19)),
            ("", None),
            ("pg_dump: not found", None),
        ] {
            assert_eq!(major_of(said), major, "{said}");
        }
    }

    #[test]
    fn an_archive_wants_a_pg_restore_that_is_not_older() {
        // As pg_dump 14 and 15, 16, 17 and 18 begin theirs.
        for (version, oldest) in [([1, 14, 0], 0), ([1, 15, 0], 16), ([1, 16, 0], 17), ([1, 17, 0], 19)] {
            assert_eq!(reads_archive(&[&b"PGDMP"[..], &version].concat()), oldest);
        }
        assert_eq!(reads_archive(b"--\n-- PostgreSQL database dump"), 0);
    }

    #[test]
    fn an_older_server_does_not_hear_of_what_it_does_not_know() {
        assert!(are_understood(15, 14) && are_understood(17, 17) && are_understood(16, 14) && are_understood(18, 17));
        assert!(!are_understood(17, 16) && !are_understood(18, 14));
        let script = "SET lock_timeout = 0;\nSET transaction_timeout = 0;\nSELECT 'SET transaction_timeout = 0;\n';";
        assert_eq!(for_older(script), "SET lock_timeout = 0;\nSELECT 'SET transaction_timeout = 0;\n';");
    }
}
