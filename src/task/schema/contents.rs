//! The entries of a dump of `pg_dump -Fc`: what each is, its statements, and what it depends on.
//!
//! `pg_restore --verbose --file=-` writes all of that as comments before the statements. Reading these with the lexer keeps a function's
//! body, which may hold such lines too, from being taken for one.

use std::path::Path;

use tokio::process::Command;

use crate::{
    contract::{Result, TaskError},
    postgres::{Target, programs::Programs},
    task::sql::{
        lexer::{Lexer, Piece},
        statement::Statement,
    },
};

/// An entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its number in the list of contents.
    pub id: u32,
    /// Such as `TABLE` or `MATERIALIZED VIEW`.
    pub kind: String,
    pub schema: Option<String>,
    /// As the list has it, such as `f(integer)`; of what belongs to a table, with the table before it.
    pub name: String,
    /// One that is not the database's own.
    pub tablespace: Option<String>,
    /// The numbers of those that it depends on.
    pub needs: Vec<u32>,
    pub statements: Vec<Statement>,
}

impl Entry {
    /// What it is, for people.
    pub fn shown(&self) -> String {
        let kind = self.kind.to_ascii_lowercase();
        match &self.schema {
            // `USER MAPPING synapse SERVER s`, `CAST (a AS b)`
            _ if self.name.starts_with(&self.kind) => format!("{kind}{}", &self.name[self.kind.len()..]),
            Some(schema) => format!("{kind} {schema}.{}", self.name),
            None => format!("{kind} {}", self.name),
        }
    }
}

/// All entries of a schema that have a statement, in their order: what another depends on comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub entries: Vec<Entry>,
}

impl Contents {
    /// Those of a file. `target` is the server whose major `programs` have; nothing is done there.
    ///
    /// # Errors
    /// Terminal, `DumpUnreadable`: what `pg_restore` said.
    pub async fn of(programs: &Programs, target: &Target, dump: &Path) -> Result<Self> {
        let mut command = statements(&programs.that_read(dump).await?, target)?;
        command.arg(dump);
        let unreadable = |said: &str| {
            TaskError::terminal("DumpUnreadable", format!("The schema of the dump cannot be read: {}.", said.trim()))
        };
        let output = command.output().await.map_err(|error| unreadable(&error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            // It is verbose there, too.
            let why: Vec<&str> = said.lines().filter(|line| line.contains("error:")).take(3).collect();
            return Err(unreadable(&why.join("; ")));
        }
        Self::read(&output.stdout).map_err(|why| unreadable(&why))
    }

    /// Those of what `pg_restore --verbose` has written.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn read(sql: &[u8]) -> std::result::Result<Self, String> {
        let mut lexer = Lexer::default();
        lexer.push(sql);
        let mut entries: Vec<Entry> = Vec::new();
        while let Some(piece) = lexer.next_piece().map_err(|uncut| format!("{uncut:?}"))? {
            match (piece, entries.last_mut()) {
                (Piece::Comment(comment), entry) => match (entry_id(&comment), entry) {
                    (Some(id), _) => entries.push(Entry { id, ..Entry::default() }),
                    (None, Some(entry)) => heed(entry, &comment),
                    (None, None) => {}
                },
                // `SET default_tablespace`, and whose it is, say nothing of an entry.
                (Piece::Statement(statement), Some(entry)) if says_something(&statement) => {
                    entry.statements.push(statement);
                }
                _ => {}
            }
        }
        Ok(Self { entries })
    }

    /// The schemas that are made. `public` is there before.
    pub fn schemas(&self) -> Vec<String> {
        let made = |entry: &&Entry| entry.kind == "SCHEMA" && !entry.statements.is_empty() && entry.name != "public";
        self.entries.iter().filter(made).map(|entry| entry.name.clone()).collect()
    }

    /// All roles that policies name.
    pub fn roles(&self) -> Vec<String> {
        let needs = self.entries.iter().flat_map(|entry| &entry.statements).flat_map(super::belongs::needs);
        let mut roles: Vec<String> = needs
            .filter_map(|need| match need {
                super::belongs::Need::Role(role) => Some(role),
                _ => None,
            })
            .collect();
        roles.sort();
        roles.dedup();
        roles
    }
}

/// The program that writes them, of a file or of its input.
///
/// # Errors
/// Transient, `NoScratchSpace`.
pub fn statements(programs: &Programs, target: &Target) -> Result<Command> {
    let mut command = programs.command("pg_restore", target)?;
    command.env_remove("PGDATABASE").args(["--verbose", "--schema-only", "--file=-"]);
    Ok(command)
}

/// The number in `TOC entry 217 (class 1259 OID 16388)`.
pub fn entry_id(comment: &str) -> Option<u32> {
    let (id, rest) = comment.strip_prefix("TOC entry ")?.split_once(' ')?;
    rest.starts_with("(class ").then(|| id.parse().ok())?
}

fn heed(entry: &mut Entry, comment: &str) {
    if let Some(needs) = comment.strip_prefix("Dependencies: ") {
        entry.needs.extend(needs.split(' ').filter_map(|id| id.parse::<u32>().ok()));
        entry.needs.sort_unstable();
        entry.needs.dedup();
    } else if let Some((name, rest)) =
        comment.strip_prefix("Name: ").and_then(|rest| rest.split_at_checked(rest.rfind("; Type: ")?))
    {
        let mut fields = rest.trim_start_matches("; ").split("; ");
        let mut field = |key: &str| fields.next().and_then(|field| field.strip_prefix(key)).unwrap_or_default();
        let [kind, schema, _, tablespace] = ["Type: ", "Schema: ", "Owner: ", "Tablespace: "].map(&mut field);
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty() && text != "-");
        name.clone_into(&mut entry.name);
        kind.clone_into(&mut entry.kind);
        (entry.schema, entry.tablespace) = (given(schema), given(tablespace));
    }
}

fn says_something(statement: &Statement) -> bool {
    let words: Vec<String> = statement.tokens().take(2).collect();
    let is_setting = words.first().is_some_and(|word| word == "SET");
    let owner: Vec<String> = statement.tokens().rev().take(3).collect();
    let owner: Vec<&str> = owner.iter().map(String::as_str).collect();
    !is_setting && !matches!(owner[..], [_, "TO", "OWNER"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_with_what_they_depend_on() {
        let sql = "--\n-- PostgreSQL database dump\n--\n\n\\restrict a\n\nSET statement_timeout = 0;\n\n\
            --\n-- TOC entry 265 (class 1255 OID 16538)\n-- Name: cf(regclass); Type: FUNCTION; Schema: public; Owner: postgres\n\
            -- Data Pos: 0\n--\n\nCREATE FUNCTION public.cf(regclass) RETURNS bigint\n LANGUAGE plpgsql AS $$\n\
            -- TOC entry 3 (class 1 OID 2)\n-- Dependencies: 9\n$$;\n\n\nALTER FUNCTION public.cf(regclass) OWNER TO postgres;\n\n\
            SET default_tablespace = fast;\n\n--\n-- TOC entry 226 (class 1259 OID 16549)\n-- Dependencies: 265 265 7\n\
            -- Name: d; Type: x; Type: TABLE; Schema: public; Owner: synapse; Tablespace: fast\n-- Data Pos: 0\n--\n\n\
            CREATE TABLE public.dd (\n    a bigint\n);\n\n--\n-- TOC entry 3477 (class 0 OID 0)\n\
            -- Name: USER MAPPING synapse SERVER s; Type: USER MAPPING; Schema: -; Owner: postgres\n--\n\n\
            CREATE USER MAPPING FOR synapse SERVER s;\n\n--\n-- PostgreSQL database dump complete\n--\n";
        let contents = Contents::read(sql.as_bytes()).unwrap();
        let [function, table, mapping] = &contents.entries[..] else { panic!("{contents:?}") };
        assert_eq!((function.id, function.needs.len(), function.statements.len()), (265, 0, 1));
        assert_eq!(function.shown(), "function public.cf(regclass)");
        assert_eq!((table.needs.as_slice(), table.tablespace.as_deref()), ([7, 265].as_slice(), Some("fast")));
        assert_eq!((table.shown().as_str(), table.name.as_str()), ("table public.d; Type: x", "d; Type: x"));
        assert_eq!(mapping.shown(), "user mapping synapse SERVER s");
    }
}
