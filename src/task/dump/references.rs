//! What the tables of a plain dump name although nothing makes it: it belongs to a superuser and was left out. Pure.
//!
//! A custom dump has a list of what depends on what. A plain one has names alone, which `pg_dump` writes with their schemas. Only tables,
//! with their indexes and triggers, are looked at: a view or a function that lacks something is left out, too.

use std::collections::{BTreeMap, BTreeSet};

use crate::task::{
    schema::{
        Facts, Needed, NotRestored,
        belongs::{self, unquoted},
    },
    sql::statement::Statement,
};

/// PostgreSQL's own ways of indexing.
const INDEXES: [&str; 6] = ["btree", "hash", "gist", "gin", "spgist", "brin"];

/// What has two words for its kind.
const TWO_WORDS: [[&str; 2]; 6] = [
    ["OPERATOR", "CLASS"],
    ["OPERATOR", "FAMILY"],
    ["ACCESS", "METHOD"],
    ["FOREIGN", "TABLE"],
    ["MATERIALIZED", "VIEW"],
    ["EVENT", "TRIGGER"],
];

/// Names, as the catalogs have them: `schema.name`, or `name` where the dump writes no schema.
#[derive(Debug, Default)]
pub struct References {
    /// The role that restores.
    role: String,
    /// Schemas that are there before.
    prepared: BTreeSet<String>,
    made: BTreeSet<String>,
    schemas: BTreeSet<String>,
    /// Schemas into which an extension is made: what it brings is unknown.
    open: BTreeSet<String>,
    /// Each name with what needs it first, in their order.
    used: Vec<(String, String)>,
    left_out: Vec<LeftOut>,
}

#[derive(Debug)]
struct LeftOut {
    /// Such as `function public.half`.
    what: String,
    name: String,
    is_extension: bool,
    statements: Vec<String>,
}

impl References {
    /// Takes what is there before, such as `function public.half(integer)`.
    pub fn begin_with(&mut self, facts: &Facts) {
        self.role.clone_from(&facts.role);
        for what in &facts.present {
            self.prepared.extend(what.strip_prefix("schema ").map(str::to_owned));
            let what = what.split('(').next().unwrap_or_default();
            let Some((_, name)) = what.rsplit_once(' ') else { continue };
            self.made.insert(if what.starts_with("access method ") { method(name) } else { name.to_owned() });
            self.made.insert(what.to_owned());
        }
    }

    /// Whether it makes a schema that a superuser has prepared.
    pub fn is_there(&self, statement: &Statement) -> bool {
        Made::by(statement).is_some_and(|made| made.kind == "SCHEMA" && self.prepared.contains(&made.name))
    }

    /// A statement that is run.
    pub fn run(&mut self, statement: &Statement) {
        let Some(Made { kind, shown, name, rest }) = Made::by(statement) else {
            if statement.tokens().next().as_deref() == Some("ALTER")
                && statement.tokens().nth(1).as_deref() == Some("TABLE")
            {
                let tokens: Vec<String> = statement.tokens().collect();
                let from = if tokens.get(2).is_some_and(|only| only == "ONLY") { 3 } else { 2 };
                let (name, _) = name(&tokens[from.min(tokens.len())..]);
                self.look(&format!("table {name}"), &tokens);
            }
            return;
        };
        match kind.as_str() {
            "EXTENSION" => {
                let schema = rest.windows(2).find(|words| words[0] == "SCHEMA").map(|words| unquoted(&words[1]));
                self.open.insert(schema.unwrap_or_else(|| "public".to_owned()));
            }
            "SCHEMA" => drop(self.schemas.insert(name)),
            _ => {
                if matches!(kind.as_str(), "TABLE" | "INDEX" | "TRIGGER") {
                    self.look(&shown, &rest);
                }
                if !matches!(kind.as_str(), "INDEX" | "TRIGGER") {
                    self.made.insert(name);
                }
            }
        }
    }

    /// A statement that is left out, because it takes a superuser.
    pub fn leave_out(&mut self, statement: &Statement) {
        let Some(Made { kind, shown, name, .. }) = Made::by(statement) else { return };
        let name = if kind == "ACCESS METHOD" { method(&name) } else { name };
        let statements = belongs::for_a_superuser(statement, &self.role);
        self.left_out.push(LeftOut { what: shown, name, is_extension: kind == "EXTENSION", statements });
    }

    /// What tables need of what was left out.
    pub fn needed(&self) -> Vec<Needed> {
        let mut needed: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (by, used) in self.used.iter().filter(|(_, used)| !self.made.contains(used)) {
            let named: Vec<usize> = self.who_is(|name| name == used);
            let all = if named.is_empty() && self.is_unknown(used) { self.who_may_bring(used) } else { named };
            for at in all {
                let by_all = needed.entry(at).or_default();
                if !by_all.contains(by) {
                    by_all.push(by.clone());
                }
            }
        }
        needed.into_iter().map(|(at, by)| self.left_out[at].needed(by)).collect()
    }

    /// What of what was left out PostgreSQL may miss that says this of a statement.
    pub fn missed(&self, said: &str, statement: &str) -> Vec<Needed> {
        let named = self.who_is(|name| said.contains(bare(name)));
        let all = if named.is_empty() { self.who_may_bring(said) } else { named };
        all.into_iter().map(|at| self.left_out[at].needed(vec![statement.to_owned()])).collect()
    }

    /// What was left out and is not there before.
    fn missing(&self, is_extension: bool) -> impl Iterator<Item = (usize, &LeftOut)> {
        let left_out = self.left_out.iter().enumerate();
        left_out.filter(move |(_, left)| left.is_extension == is_extension && !self.made.contains(&left.what))
    }

    fn who_is(&self, is_it: impl Fn(&str) -> bool) -> Vec<usize> {
        self.missing(false).filter(|(_, left)| is_it(&left.name)).map(|(at, _)| at).collect()
    }

    /// What an extension brings only a server knows that has it: one whose name is in the words, such as `access method bloom`, or any.
    fn who_may_bring(&self, words: &str) -> Vec<usize> {
        let named: Vec<usize> =
            self.missing(true).filter(|(_, left)| words.contains(&left.name)).map(|(at, _)| at).collect();
        if named.is_empty() { self.missing(true).map(|(at, _)| at).collect() } else { named }
    }

    /// Whether neither the dump makes it, as far as that is known, nor an extension that is made.
    fn is_unknown(&self, used: &str) -> bool {
        match used.split_once('.') {
            None => true,
            // An old pg_dump writes no schemas.
            Some((schema, name)) => {
                (schema == "public" || self.schemas.contains(schema))
                    && !self.open.contains(schema)
                    && !self.made.contains(name)
            }
        }
    }

    /// The names with a schema, and the way of indexing.
    fn look(&mut self, by: &str, tokens: &[String]) {
        for (at, words) in tokens.windows(3).enumerate().filter(|(_, words)| words[1] == ".") {
            let before = at.checked_sub(1).map(|before| tokens[before].as_str());
            if before == Some(".") || !is_name(&words[0]) || !is_name(&words[2]) {
                continue;
            }
            let name = format!("{}.{}", unquoted(&words[0]), unquoted(&words[2]));
            match before {
                // Of an identity.
                Some("NAME") => drop(self.made.insert(name)),
                _ => self.used.push((by.to_owned(), name)),
            }
        }
        if by.starts_with("index ") {
            let using = tokens.windows(2).find(|words| words[0] == "USING").map(|words| unquoted(&words[1]));
            let using = using.filter(|using| !INDEXES.contains(&using.as_str()));
            self.used.extend(using.map(|using| (by.to_owned(), method(&using))));
        }
    }
}

impl LeftOut {
    fn needed(&self, by: Vec<String>) -> Needed {
        let of = NotRestored::new(&self.what, "only a superuser can make it");
        Needed { of, by, statements: self.statements.clone() }
    }
}

/// What a statement makes.
pub struct Made {
    /// In capitals.
    pub kind: String,
    /// Such as `table public.events`.
    shown: String,
    pub name: String,
    /// What follows the name.
    pub rest: Vec<String>,
}

impl Made {
    /// `None`: it makes nothing.
    pub fn by(statement: &Statement) -> Option<Self> {
        let first: Vec<String> = statement.tokens().take(1).collect();
        if first.first().is_none_or(|verb| verb != "CREATE") {
            return None;
        }
        let tokens: Vec<String> = statement.tokens().skip(1).collect();
        let is_more = |word: &&String| matches!(word.as_str(), "OR" | "REPLACE" | "UNLOGGED" | "UNIQUE" | "CONSTRAINT");
        let tokens = &tokens[tokens.iter().take_while(is_more).count()..];
        let is_two = |two: &[&str; 2]| tokens.starts_with(&two.map(str::to_owned));
        let (kind, rest) = match TWO_WORDS.iter().find(|two| is_two(two)) {
            Some(two) => (two.join(" "), &tokens[2..]),
            None => (tokens.first()?.clone(), &tokens[1..]),
        };
        let is_more = |word: &&String| matches!(word.as_str(), "IF" | "NOT" | "EXISTS");
        let (name, rest) = name(&rest[rest.iter().take_while(is_more).count()..]);
        Some(Self { shown: format!("{} {name}", kind.to_ascii_lowercase()), kind, name, rest: rest.to_vec() })
    }
}

/// A name at the beginning, and what follows.
pub fn name(tokens: &[String]) -> (String, &[String]) {
    match tokens {
        [schema, dot, name, rest @ ..] if dot == "." => (format!("{}.{}", unquoted(schema), unquoted(name)), rest),
        [name, rest @ ..] => (unquoted(name), rest),
        [] => (String::new(), tokens),
    }
}

/// No name of anything else has a space without a dot.
fn method(name: &str) -> String {
    format!("access method {name}")
}

/// Without schema and kind.
pub fn bare(name: &str) -> &str {
    name.rsplit(['.', ' ']).next().unwrap_or(name)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first == '"' || first == '_' || first.is_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::sql::lexer::{Lexer, Piece};

    fn of(run: &[&str], left_out: &[&str]) -> References {
        let statement = |text: &&str| {
            let mut lexer = Lexer::default();
            lexer.push(format!("{text};").as_bytes());
            match lexer.next_piece() {
                Ok(Some(Piece::Statement(statement))) => statement,
                other => panic!("{other:?}"),
            }
        };
        let mut references = References::default();
        left_out.iter().map(statement).for_each(|statement| references.leave_out(&statement));
        run.iter().map(statement).for_each(|statement| references.run(&statement));
        references
    }

    fn needed(references: &References) -> Vec<(String, Vec<String>)> {
        references.needed().into_iter().map(|needed| (needed.of.what, needed.by)).collect()
    }

    const SUPERUSERS: [&str; 3] = [
        "CREATE EXTENSION IF NOT EXISTS bloom WITH SCHEMA public",
        "CREATE FUNCTION public.half(integer) RETURNS integer LANGUAGE internal AS 'int4up'",
        "CREATE TYPE public.\"Odd\" (INPUT = public.a, OUTPUT = public.b)",
    ];

    #[test]
    fn what_tables_need_of_what_is_left_out_is_named_with_who_needs_it() {
        let run = [
            "CREATE TABLE public.rooms (a integer DEFAULT public.half(2), b public.\"Odd\", c text DEFAULT 'public.no')",
            "CREATE INDEX blooms ON public.rooms USING bloom (a)",
            "CREATE TRIGGER t AFTER INSERT ON public.rooms FOR EACH ROW WHEN (new.a > 1) EXECUTE FUNCTION public.half()",
            "ALTER TABLE ONLY public.rooms ADD CONSTRAINT c CHECK (public.half(a) > 1)",
            "CREATE VIEW public.v AS SELECT public.nowhere(1)",
        ];
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            needed(&of(&run, &SUPERUSERS)),
            [
                ("extension bloom".to_owned(), names(&["index blooms"])),
                ("function public.half".to_owned(), names(&["table public.rooms", "trigger t"])),
                ("type public.Odd".to_owned(), names(&["table public.rooms"])),
            ]
        );
    }

    #[test]
    fn what_is_made_or_there_or_of_an_extension_that_is_made_is_not_needed() {
        let run = [
            "CREATE SCHEMA other",
            "CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA other",
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$public.no$$",
            "CREATE TABLE public.rooms (a integer, b text)",
            "ALTER TABLE public.rooms ALTER COLUMN a ADD GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME public.rooms_a_seq)",
            "CREATE UNIQUE INDEX i ON public.rooms USING gin (b other.gin_trgm_ops)",
            "CREATE TRIGGER t AFTER INSERT ON public.rooms FOR EACH ROW EXECUTE FUNCTION public.f()",
            "CREATE TABLE events (a integer)",
            "ALTER TABLE ONLY public.rooms ADD CONSTRAINT fk FOREIGN KEY (a) REFERENCES public.events(a)",
        ];
        assert_eq!(needed(&of(&run, &SUPERUSERS)), []);
        // Prepared by a superuser.
        let run =
            ["CREATE TABLE public.x (a integer DEFAULT public.half(2))", "CREATE INDEX i ON public.x USING bloom (a)"];
        let mut references = of(&run, &SUPERUSERS);
        let present = ["function public.half(integer)", "extension bloom", "access method bloom"].map(str::to_owned);
        references.begin_with(&Facts { present: present.into(), ..Facts::default() });
        assert_eq!(needed(&references), []);
        assert_eq!(references.missed("access method \"bloom\" does not exist", "CREATE INDEX"), []);
    }

    #[test]
    fn what_postgresql_misses_is_found_by_its_name() {
        let more = ["CREATE EXTENSION IF NOT EXISTS postgres_fdw WITH SCHEMA public"];
        let references = of(&[], &[&SUPERUSERS[..], &more].concat());
        let missed = |said: &str| {
            let missed = references.missed(said, "CREATE TABLE x");
            missed.into_iter().map(|needed| needed.of.what).collect::<Vec<_>>()
        };
        assert_eq!(missed("function half(integer) does not exist"), ["function public.half"]);
        assert_eq!(missed("access method \"bloom\" does not exist"), ["extension bloom"]);
        assert_eq!(missed("data type x has no default operator class"), ["extension bloom", "extension postgres_fdw"]);
        assert_eq!(of(&[], &[]).missed("function half(integer) does not exist", "").len(), 0);
    }
}
