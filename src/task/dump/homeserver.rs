//! What a dump says of its homeserver, noted as it passes: the same that [`super::check`] asks the database that it becomes. Pure.
//!
//! A refusal before the rows go in must be one after them, too. So what is not understood here, and what depends on where the search
//! path of Synapse's role leads, is left to that check.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    check::Flaws,
    references::{Made, bare, name},
};
use crate::{
    synapse::{
        database::{SchemaVersion, Tables},
        schema::Missing,
    },
    task::{
        schema::{Contents, belongs::unquoted},
        sql::statement::Statement,
    },
};

const VERSION: &str = "schema_version";
const COMPAT_VERSION: &str = "schema_compat_version";
const USERS: &str = "users";

/// Tables whose rows are looked at, each with the column.
const NOTED: [(&str, &str); 3] = [(VERSION, "version"), (COMPAT_VERSION, "compat_version"), (USERS, "name")];

/// Synapse has this table beside its [`VERSION`]; another program that has one need not.
const DELTAS: &str = "applied_schema_deltas";

/// Where a new database has what is made without a schema, and where a session finds it.
const PUBLIC: &str = "public";

/// How much of a dump has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    All,
    /// All of its tables and indexes, and a part of its rows.
    Contents,
    /// Its beginning.
    Part,
}

/// What has passed. Tables have names as the catalogs have them: `schema.name`.
#[derive(Debug)]
pub struct Homeserver {
    /// Where a name without a schema belongs.
    schema: String,
    tables: BTreeSet<String>,
    /// The columns of noted tables, in the order in which they were made.
    columns: BTreeMap<String, Vec<String>>,
    /// The value of the first row; of users, one more: the first whose homeserver is another one.
    values: BTreeMap<String, Vec<String>>,
    /// The rows of this table pass, with its column at this place.
    passing: Option<(String, usize)>,
    has_rows: bool,
    has_unique_index: bool,
    /// A statement gives tables other names than they were made with.
    is_renamed: bool,
    /// Noted tables whose rows are not understood; without a schema, where no table is made for the rows.
    unclear: BTreeSet<String>,
}

impl Default for Homeserver {
    fn default() -> Self {
        Self {
            schema: PUBLIC.to_owned(),
            tables: BTreeSet::new(),
            columns: BTreeMap::new(),
            values: BTreeMap::new(),
            passing: None,
            has_rows: false,
            has_unique_index: false,
            is_renamed: false,
            unclear: BTreeSet::new(),
        }
    }
}

impl Homeserver {
    /// A statement that is run.
    pub fn run(&mut self, statement: &Statement) {
        let tokens: Vec<String> = statement.tokens().collect();
        let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
        match words[..] {
            ["SET", "SEARCH_PATH", _, ref path @ ..] => self.schema = first_schema(path.iter().copied()),
            ["SELECT", "PG_CATALOG", ".", "SET_CONFIG", "(", "'search_path'", ",", path, ..] => {
                self.schema = first_schema(path.trim_matches('\'').split(','));
            }
            ["ALTER", ..] if words.contains(&"RENAME") || words.windows(2).any(|two| two == ["SET", "SCHEMA"]) => {
                self.is_renamed = true;
            }
            ["CREATE", ..] => {
                let made = Made::by(statement).filter(|made| made.kind == "TABLE");
                if let Some(Made { name, rest, .. }) = made {
                    self.make(name, &rest);
                }
            }
            _ => {}
        }
        self.has_unique_index |= words.iter().any(|word| matches!(*word, "UNIQUE" | "PRIMARY"));
    }

    /// What a custom dump makes, from its list of contents.
    pub fn read(&mut self, contents: &Contents) {
        for entry in &contents.entries {
            self.schema = entry.schema.clone().unwrap_or_else(|| PUBLIC.to_owned());
            entry.statements.iter().for_each(|statement| self.run(statement));
        }
    }

    /// A `COPY`: rows follow.
    pub fn copy(&mut self, statement: &Statement) {
        self.has_rows = true;
        let tokens: Vec<String> = statement.tokens().skip(1).collect();
        self.passing = self.rows_of(&tokens).map(|(table, at, _)| (table, at));
    }

    /// Whole lines of these rows.
    pub fn rows(&mut self, rows: &[u8]) {
        let Some((table, at)) = self.passing.take() else { return };
        for line in rows.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let field = line.split(|byte| *byte == b'\t').nth(at).map(String::from_utf8_lossy);
            self.keep(&table, field.as_deref().filter(|field| *field != "\\N"));
        }
        self.passing = Some((table, at));
    }

    /// They are over.
    pub fn rows_end(&mut self) {
        self.passing = None;
    }

    /// An `INSERT`.
    pub fn insert(&mut self, statement: &Statement) {
        self.has_rows = true;
        // A dump has millions of them, and few are of such a table.
        let begins: Vec<String> = statement.tokens().skip(2).take(3).collect();
        if noted(&name(&begins).0).is_none() {
            return;
        }
        let tokens: Vec<String> = statement.tokens().skip(2).collect();
        if let Some((table, at, rest)) = self.rows_of(&tokens) {
            each_value(rest, at, |value| self.keep(&table, value));
        }
    }

    /// What the dump would be refused for as a database of the homeserver of this name.
    pub fn flaws(&self, server_name: &str, seen: Seen) -> Flaws {
        let mut flaws = Flaws::default();
        let has_all_tables = seen != Seen::Part;
        flaws.has_rows_alone = has_all_tables && self.has_rows && self.tables.is_empty();
        if self.is_renamed {
            return flaws;
        }
        flaws.has_no_unique_index = has_all_tables && !self.has_unique_index;
        let all: Tables<'_> = self.tables.iter().map(|table| bare(table)).collect();
        if !all.contains(VERSION) {
            flaws.has_no_version = has_all_tables;
            return flaws;
        }
        // The search path of the role may lead to several schemas. Which of several tables it takes is known when they are there.
        let Some(schema) = self.only_schema() else { return flaws };
        let of = |table: &str| format!("{schema}.{table}");
        let own: Tables<'_> =
            self.tables.iter().filter(|table| **table == of(bare(table))).map(|table| bare(table)).collect();
        if has_all_tables {
            flaws.missing = Missing::of(&all);
        } else if Missing::of(&own).is_some() {
            return flaws;
        }
        let value = |table: &str| self.values.get(&of(table))?.first()?.parse::<i32>().ok();
        let (version, compat_version) = (value(VERSION), value(COMPAT_VERSION));
        let is_clear = |table: &str| !self.unclear.contains(table) && !self.unclear.contains(&of(table));
        if is_clear(VERSION) {
            flaws.has_no_version = seen == Seen::All && version.is_none();
            let is_known = compat_version.is_some() || seen == Seen::All && is_clear(COMPAT_VERSION);
            flaws.schema = version.filter(|_| is_known).map(|version| SchemaVersion { version, compat_version });
        }
        if is_clear(USERS) {
            let mut users = self.values.get(&of(USERS)).into_iter().flatten();
            flaws.foreign_user = users.find(|user| server(user) != server_name).cloned();
        }
        flaws
    }

    /// The schema that has Synapse's tables, where no other one may be it.
    fn only_schema(&self) -> Option<String> {
        let with = |table: &'static str| {
            self.tables.iter().filter(move |name| bare(name) == table).map(|name| &name[..name.len() - table.len() - 1])
        };
        let deltas: BTreeSet<&str> = with(DELTAS).collect();
        let may_be: Vec<&str> = with(VERSION).filter(|name| *name == PUBLIC || deltas.contains(name)).collect();
        match may_be[..] {
            [only] => Some(only.to_owned()),
            _ => None,
        }
    }

    fn full(&self, name: String) -> String {
        if name.contains('.') { name } else { format!("{}.{name}", self.schema) }
    }

    fn make(&mut self, name: String, rest: &[String]) {
        let table = self.full(name);
        if noted(&table).is_some() {
            let has_own_rows = rest.first().is_some_and(|first| first == "(")
                && !rest.iter().any(|word| matches!(word.as_str(), "INHERITS" | "PARTITION"));
            if !has_own_rows {
                self.unclear.insert(table.clone());
            }
            self.columns.extend(defined(rest).map(|columns| (table.clone(), columns)));
        }
        self.tables.insert(table);
    }

    /// Of a noted table, as a `COPY` or an `INSERT` begins: its column's place among the values, and what follows.
    fn rows_of<'a>(&mut self, tokens: &'a [String]) -> Option<(String, usize, &'a [String])> {
        let (name, rest) = name(tokens);
        let table = self.full(name);
        let (noted, column) = noted(&table)?;
        let (listed, rest) = listed(rest);
        let columns = listed.as_ref().or_else(|| self.columns.get(&table));
        let at = columns.and_then(|columns| columns.iter().position(|name| name == column));
        if !self.tables.contains(&table) {
            self.unclear.insert(noted.to_owned());
        } else if at.is_none() {
            self.unclear.insert(table.clone());
        }
        at.map(|at| (table, at, rest))
    }

    fn keep(&mut self, table: &str, value: Option<&str>) {
        let Some((noted, _)) = noted(table) else { return };
        // A user without a name is of no homeserver.
        let is_understood = noted == USERS || value.is_some_and(|value| value.parse::<i32>().is_ok());
        match (value, self.values.get_mut(table)) {
            _ if !is_understood => drop(self.unclear.insert(table.to_owned())),
            (None, _) => {}
            (Some(value), None) => drop(self.values.insert(table.to_owned(), vec![value.to_owned()])),
            (Some(value), Some(values)) => {
                if noted == USERS && values.len() == 1 && server(&values[0]) != server(value) {
                    values.push(value.to_owned());
                }
            }
        }
    }
}

/// A table whose rows are looked at, and the column.
fn noted(table: &str) -> Option<(&'static str, &'static str)> {
    NOTED.into_iter().find(|(name, _)| *name == bare(table))
}

/// As [`crate::synapse::database::foreign_user`] has it.
fn server(user: &str) -> &str {
    user.split_once(':').map_or(user, |(_, server)| server)
}

/// Where a search path makes new tables, as `pg_dump` sets it.
fn first_schema<'a>(path: impl Iterator<Item = &'a str>) -> String {
    let named =
        path.map(|name| unquoted(name.trim())).find(|name| !matches!(name.as_str(), "" | "," | "$user" | "pg_catalog"));
    named.unwrap_or_else(|| PUBLIC.to_owned())
}

/// The names of `(a, "B")` at the beginning, and what follows.
fn listed(tokens: &[String]) -> (Option<Vec<String>>, &[String]) {
    let end = tokens.iter().position(|token| token == ")");
    match (tokens.first().map(String::as_str), end) {
        (Some("("), Some(end)) => {
            let names = tokens[1..end].iter().filter(|token| *token != ",").map(|token| unquoted(token));
            (Some(names.collect()), &tokens[end + 1..])
        }
        _ => (None, tokens),
    }
}

/// The columns that `(a text, "B" numeric(1, 2), CONSTRAINT …)` makes. `None`: not all of them stand there.
fn defined(tokens: &[String]) -> Option<Vec<String>> {
    let (mut depth, mut columns) = (0, Vec::new());
    for pair in tokens.windows(2) {
        match pair[0].as_str() {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        let begins = depth == 1 && matches!(pair[0].as_str(), "(" | ",");
        match pair[1].as_str() {
            "LIKE" if begins => return None,
            "CONSTRAINT" | "CHECK" | "PRIMARY" | "UNIQUE" | "FOREIGN" | "EXCLUDE" => {}
            column if begins => columns.push(unquoted(column)),
            _ => {}
        }
    }
    Some(columns)
}

/// The values at this place of `VALUES ('a', -1, E'b'), …`; `None`: it is NULL. What a backslash does to a value does not matter: no
/// version has one, and no server's name.
fn each_value(tokens: &[String], at: usize, mut each: impl FnMut(Option<&str>)) {
    let (mut depth, mut column) = (0, 0);
    let mut value: Option<String> = None;
    for token in tokens.iter().skip_while(|token| *token != "VALUES").skip(1) {
        match token.as_str() {
            "(" => (depth, column, value) = (depth + 1, 0, None),
            ")" => {
                depth -= 1;
                each(value.take().as_deref());
            }
            "," if depth == 1 => column += 1,
            "NULL" | "DEFAULT" | "E" => {}
            token if depth == 1 && column == at => {
                let text = token.strip_prefix('\'').and_then(|token| token.strip_suffix('\''));
                let text = text.map_or_else(|| token.to_owned(), |text| text.replace("''", "'"));
                value.get_or_insert_default().push_str(&text);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
