//! A script of `pg_dump` as a series of acts, each of which may be done. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    homeserver::Homeserver,
    references::References,
    rules::{self, Verdict},
};
use crate::{
    contract::{Result, TaskError},
    task::{
        schema::{
            Facts,
            belongs::{Need, needs},
            contents,
        },
        sql::{
            lexer::{Lexer, Piece, Uncut},
            statement::Statement,
        },
    },
    words::counted,
};

/// The last thing that `pg_dump` and `pg_restore` write.
const COMPLETE: &str = "PostgreSQL database dump complete";
/// The first thing that `pg_dumpall` writes.
const ALL_DATABASES: &str = "PostgreSQL database cluster dump";
/// Before everything else: of which PostgreSQL.
const OF_VERSION: &str = "Dumped from database version ";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Run(Statement),
    /// Rows of this table follow.
    Copy {
        statement: Statement,
        table: String,
    },
    Rows(Vec<u8>),
    RowsEnd,
    /// An `INSERT` into this table.
    Insert {
        statement: Statement,
        table: String,
    },
}

/// A script that is being read.
#[derive(Debug)]
pub struct Script {
    lexer: Lexer,
    /// PostgreSQL's, into which it goes.
    major: i32,
    is_complete: bool,
    /// Numbers of entries that are not run, where comments tell of entries.
    skipped: BTreeSet<u32>,
    is_skipping: bool,
    /// Materialized views to fill.
    pub views: BTreeSet<String>,
    left_out: BTreeMap<&'static str, usize>,
    /// Extensions that the role which restores may make.
    extensions: BTreeSet<String>,
    pub references: References,
    pub homeserver: Homeserver,
}

impl Script {
    /// One for a PostgreSQL of this major.
    pub fn new(major: i32) -> Self {
        Self {
            lexer: Lexer::default(),
            major,
            is_complete: false,
            skipped: BTreeSet::new(),
            is_skipping: false,
            views: BTreeSet::new(),
            left_out: BTreeMap::new(),
            extensions: BTreeSet::new(),
            references: References::default(),
            homeserver: Homeserver::default(),
        }
    }

    /// The same without the entries of these numbers.
    pub fn without(major: i32, skipped: BTreeSet<u32>) -> Self {
        Self { skipped, ..Self::new(major) }
    }

    /// The same on a server that has this.
    pub fn on(mut self, facts: &Facts) -> Self {
        let by_the_owner = facts.extensions.iter().filter(|(_, available)| available.by_the_owner);
        self.extensions = by_the_owner.map(|(name, _)| name.clone()).collect();
        self.references.begin_with(facts);
        self
    }

    /// Takes more of it.
    pub fn push(&mut self, bytes: &[u8]) {
        self.lexer.push(bytes);
    }

    /// What to do next; `None`: it needs more of the script.
    ///
    /// # Errors
    /// Terminal: `DumpNotAllowed`, with the line; `PostgresTooOld`.
    pub fn next_act(&mut self) -> Result<Option<Act>> {
        while let Some(piece) = self.lexer.next_piece().map_err(uncut)? {
            match piece {
                Piece::Comment(text) => self.heed(&text)?,
                Piece::Command { line, text } => {
                    rules::judge_command(&text).map_err(|why| not_allowed(line, &text, &why))?;
                }
                Piece::Statement(_) if self.is_skipping => {}
                Piece::Statement(statement) => {
                    let judged = rules::judge(&statement);
                    match judged.map_err(|why| not_allowed(statement.line, &statement.beginning(), &why))? {
                        Verdict::Run => {
                            let is_there = self.references.is_there(&statement);
                            self.references.run(&statement);
                            self.homeserver.run(&statement);
                            if !is_there {
                                return Ok(Some(Act::Run(statement)));
                            }
                        }
                        Verdict::LeaveOut(_) if self.makes_its_extension(&statement) => {
                            self.references.run(&statement);
                            return Ok(Some(Act::Run(statement)));
                        }
                        Verdict::Values(table) => {
                            self.homeserver.insert(&statement);
                            return Ok(Some(Act::Insert { statement, table }));
                        }
                        Verdict::PassOver => {}
                        Verdict::Refresh(view) => {
                            self.views.insert(view);
                        }
                        Verdict::LeaveOut(kind) => {
                            self.references.leave_out(&statement);
                            *self.left_out.entry(kind).or_default() += 1;
                        }
                        Verdict::Rows(table) => {
                            self.lexer.expect_rows();
                            self.homeserver.copy(&statement);
                            return Ok(Some(Act::Copy { statement, table }));
                        }
                    }
                }
                Piece::Rows(rows) => {
                    self.homeserver.rows(&rows);
                    return Ok(Some(Act::Rows(rows)));
                }
                Piece::RowsEnd => {
                    self.homeserver.rows_end();
                    return Ok(Some(Act::RowsEnd));
                }
            }
        }
        Ok(None)
    }

    /// It is over. Returns what was left out, for people.
    ///
    /// # Errors
    /// Terminal, `DumpIncomplete`.
    pub fn finish(&self) -> Result<Vec<String>> {
        self.lexer.finish().map_err(uncut)?;
        if !self.is_complete {
            return Err(incomplete(&format!("its last line is not \"-- {COMPLETE}\"")));
        }
        Ok(self.left_out.iter().map(|(kind, count)| left_out(kind, *count)).collect())
    }

    /// `CREATE EXTENSION`, which a restore of a backup would make, too.
    fn makes_its_extension(&self, statement: &Statement) -> bool {
        needs(statement).iter().any(|need| matches!(need, Need::Extension(name) if self.extensions.contains(name)))
    }

    fn heed(&mut self, comment: &str) -> Result<()> {
        if comment == ALL_DATABASES {
            return Err(TaskError::terminal(
                "DumpNotAllowed",
                "The file is one of pg_dumpall, which writes into all databases of a server: dump the one, with pg_dump.",
            ));
        }
        self.is_complete |= comment == COMPLETE;
        if let Some(entry) = contents::entry_id(comment) {
            self.is_skipping = self.skipped.contains(&entry);
        }
        // "15.4 (Debian 15.4-1)"
        let version = comment
            .strip_prefix(OF_VERSION)
            .and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next()?.parse::<i32>().ok());
        match version {
            Some(version) if version > self.major => Err(TaskError::terminal(
                "PostgresTooOld",
                format!(
                    "The dump is of PostgreSQL {version}, and this is PostgreSQL {}: a dump cannot go back to an older one.",
                    self.major
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn left_out(kind: &str, count: usize) -> String {
    let why = match kind {
        "owners" => "all belongs to Synapse's role here",
        "rights" => "those of the database that is replaced are taken over, others are yours to grant",
        "extensions" => "only a superuser can make them, and no table needs one",
        "large objects" => "Synapse has none",
        "comments" | "publications" => "Synapse does not need them",
        _ => "only a superuser can make them",
    };
    let (statements, were) = (counted(count, "statement", "statements"), if count == 1 { "was" } else { "were" });
    format!("of the dump, {statements} about {kind} {were} left out: {why}")
}

fn not_allowed(line: u64, what: &str, why: &str) -> TaskError {
    TaskError::terminal(
        "DumpNotAllowed",
        format!("Line {line} of the dump is not run: {what} ({why}). Nothing was replaced."),
    )
}

fn incomplete(what: &str) -> TaskError {
    TaskError::terminal(
        "DumpIncomplete",
        format!("The dump is cut off: {what}. Nothing was replaced: take another one."),
    )
}

fn uncut(uncut: Uncut) -> TaskError {
    match uncut {
        Uncut::Odd { line, what } => TaskError::terminal(
            "DumpNotAllowed",
            format!("Line {line} of the dump cannot be read: {what}. Nothing was replaced."),
        ),
        Uncut::Ends { line, what } => incomplete(&format!("it ends at line {line}, in the middle of {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(script: &str) -> Result<(Vec<Act>, Vec<String>)> {
        let (mut reading, mut acts) = (Script::new(15), Vec::new());
        reading.push(script.as_bytes());
        while let Some(act) = reading.next_act()? {
            acts.push(act);
        }
        Ok((acts, reading.finish()?))
    }

    const END: &str = "--\n-- PostgreSQL database dump complete\n--\n";

    #[test]
    fn a_dump_is_what_may_be_done_of_it() {
        let script = "--\n-- PostgreSQL database dump\n--\n\\restrict a\n-- Dumped from database version 15.4 (Debian 15.4-1)\n\
                      SET statement_timeout = 0;\nCREATE TABLE public.a (b text);\nALTER TABLE public.a OWNER TO x;\n\
                      ALTER TABLE public.b OWNER TO x;\nCOPY public.a (b) FROM stdin;\n\\connect\n\\.\n";
        let (acts, left_out) = read(&format!("{script}{END}\\unrestrict a\n")).unwrap();
        assert!(matches!(&acts[0], Act::Run(statement) if statement.line == 7), "{acts:?}");
        assert!(matches!(&acts[1], Act::Copy { table, .. } if table == "public.a"), "{acts:?}");
        assert_eq!(acts[2..], [Act::Rows(b"\\connect\n".to_vec()), Act::RowsEnd]);
        assert_eq!(
            left_out,
            ["of the dump, 2 statements about owners were left out: all belongs to Synapse's role here"]
        );
        let cut = read(script).unwrap_err();
        assert_eq!(cut.reason, "DumpIncomplete");
        let in_rows = read(&script[..script.len() - 3]).unwrap_err();
        assert!(in_rows.message.contains("in the middle of the rows"), "{in_rows}");
    }

    #[test]
    fn a_refusal_says_where_and_what() {
        let refused = |script: &str| read(&format!("SELECT pg_catalog.setval('a', 1);\n{script}\n{END}")).unwrap_err();
        let connect = refused("\\connect synapse");
        assert_eq!(connect.reason, "DumpNotAllowed");
        assert!(connect.message.contains("Line 2") && connect.message.contains("\\connect synapse"), "{connect}");
        let create = refused("\n-- a\nCREATE DATABASE synapse;");
        assert!(create.message.contains("Line 4") && create.message.contains("CREATE DATABASE synapse"), "{create}");
        assert!(refused("-- PostgreSQL database cluster dump").message.contains("pg_dumpall"));
    }

    #[test]
    fn entries_that_are_left_out_are_not_run_and_the_others_are() {
        let script = "-- TOC entry 2 (class 1 OID 2)\nCREATE VIEW public.a AS SELECT 1;\n\
                      -- TOC entry 3 (class 1 OID 3)\nCREATE VIEW public.b AS SELECT 1;\n\
                      REFRESH MATERIALIZED VIEW public.m;\n";
        let mut reading = Script::without(15, BTreeSet::from([2]));
        reading.push(format!("{script}{END}").as_bytes());
        let mut acts = Vec::new();
        while let Some(act) = reading.next_act().unwrap() {
            acts.push(act);
        }
        let [Act::Run(statement)] = &acts[..] else { panic!("{acts:?}") };
        assert!(statement.text.contains("public.b"), "{statement:?}");
        assert_eq!((reading.views.len(), reading.finish()), (1, Ok(Vec::new())));
    }

    #[test]
    fn a_newer_postgresql_s_dump_does_not_go_back() {
        let of = |version: &str| read(&format!("-- Dumped from database version {version}\n{END}"));
        assert!(of("15.18 (Debian)").is_ok() && of("9.6.24").is_ok());
        assert_eq!(of("16.1").unwrap_err().reason, "PostgresTooOld");
        assert_eq!(of("17beta1").unwrap_err().reason, "PostgresTooOld");
    }
}
