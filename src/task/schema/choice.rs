//! What of a schema is made, what is left out, and what stands in the way. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    belongs::{Kind, Need, for_a_superuser, needs},
    contents::{Contents, Entry},
    facts::{Available, Facts},
};
use crate::contract::{Result, TaskError};

/// As many names stand in one line.
const NAMED: usize = 8;

/// Kinds of entries that a table consists of, or that belong to it: without one, the table is not what it was. Everything else can be
/// left out.
const OF_TABLES: [&str; 15] = [
    "TABLE",
    "TABLE ATTACH",
    "DEFAULT",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "TRIGGER",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "ROW SECURITY",
    "SCHEMA",
    "CONSTRAINT TRIGGER",
];

/// Kinds of relations that are no tables of rows: what belongs to one that is left out goes with it.
const OTHER_RELATIONS: [&str; 3] = ["VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"];

/// Kinds of entries that make a type.
const TYPES: [&str; 7] = ["TYPE", "SHELL TYPE", "DOMAIN", "TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"];

/// A table itself lacks nothing but these: where the machine has their locale, PostgreSQL takes it over.
const IMPORT_COLLATIONS: &str = "SELECT pg_import_system_collations('pg_catalog')";

const BY_A_SUPERUSER: &str = "only a superuser can make it";

/// What does not come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotRestored {
    /// Such as `extension pg_stat_statements`.
    pub what: String,
    /// Such as `only a superuser can make it`.
    pub why: String,
}

impl NotRestored {
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// What does not come back although a table needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Needed {
    #[serde(flatten)]
    pub of: NotRestored,
    /// Such as `index public.events_trgm`; nothing where it is part of a table itself.
    pub by: Vec<String>,
    /// What a superuser can run.
    pub statements: Vec<String>,
}

/// What becomes of the entries of a schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The numbers of entries that are not run: they are left out, or are there already.
    pub skipped: BTreeSet<u32>,
    pub left_out: Vec<NotRestored>,
    pub needed: Vec<Needed>,
    /// Tables and indexes that come back in the database's own tablespace: of each, the one that it was in.
    pub moved: Vec<NotRestored>,
}

/// Where a superuser can put what is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a database of this name, from which the new one is made; the statement that makes it.
    Template { name: String, creation: String },
    /// In the database itself.
    Here(String),
    /// Nowhere: the superuser of a drill has tried, and could not make this.
    Drill { refused: Vec<String> },
}

/// What becomes of an entry.
#[derive(Clone, Debug)]
enum Fate {
    Made,
    /// It is there before.
    Present,
    /// For want of this entry, which may be itself.
    LeftOut {
        root: u32,
    },
}

impl Choice {
    /// Decides.
    pub fn of(contents: &Contents, facts: &Facts) -> Self {
        let by_id: BTreeMap<u32, &Entry> = contents.entries.iter().map(|entry| (entry.id, entry)).collect();
        let mut fates: BTreeMap<u32, Fate> = BTreeMap::new();
        let mut lacks: BTreeMap<u32, String> = BTreeMap::new();
        let mut needed: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for entry in &contents.entries {
            let fate = if facts.present.contains(&entry.shown()) {
                Fate::Present
            } else if let Some(why) = lacking(entry, facts, &by_id) {
                lacks.insert(entry.id, why);
                Fate::LeftOut { root: entry.id }
            } else {
                Fate::Made
            };
            fates.insert(entry.id, fate);
        }
        publications(contents, &mut fates);
        follow(contents, &by_id, &mut fates, &mut needed);

        let mut choice = Self::default();
        for entry in &contents.entries {
            choice.moved.extend(entry.tablespace.as_ref().map(|tablespace| {
                NotRestored::new(
                    entry.shown(),
                    format!("in tablespace {tablespace}, and comes back in the database's own"),
                )
            }));
            match &fates[&entry.id] {
                Fate::Made => {}
                Fate::Present => {
                    choice.skipped.insert(entry.id);
                }
                Fate::LeftOut { root } => {
                    choice.skipped.insert(entry.id);
                    let why = lacks.get(root).cloned().unwrap_or_default();
                    let is_named =
                        !matches!(entry.kind.as_str(), "COMMENT" | "ACL" | "SECURITY LABEL" | "PUBLICATION TABLE");
                    match (needed.remove(&entry.id), *root == entry.id) {
                        (Some(by), true) => {
                            let statements = match by.is_empty() {
                                true => vec![IMPORT_COLLATIONS.to_owned()],
                                false => entry
                                    .statements
                                    .iter()
                                    .flat_map(|made| for_a_superuser(made, &facts.role))
                                    .collect(),
                            };
                            choice.needed.push(Needed { of: NotRestored::new(entry.shown(), why), by, statements });
                        }
                        (_, true) => choice.left_out.push(NotRestored::new(entry.shown(), why)),
                        (_, false) if is_named => {
                            let why = format!("it needs {}, which is left out", by_id[root].shown());
                            choice.left_out.push(NotRestored::new(entry.shown(), why));
                        }
                        _ => {}
                    }
                }
            }
        }
        // Comments of what is there already are somebody else's, and so are rights.
        for entry in &contents.entries {
            let of_present = entry.needs.iter().any(|id| matches!(fates.get(id), Some(Fate::Present)));
            if of_present && matches!(entry.kind.as_str(), "COMMENT" | "ACL" | "SECURITY LABEL") {
                choice.skipped.insert(entry.id);
            }
        }
        choice
    }

    /// What is left out and moved, for people.
    pub fn told(&self) -> Vec<String> {
        let all: Vec<NotRestored> = self.left_out.iter().chain(&self.moved).cloned().collect();
        told(&all)
    }

    /// Whether everything that a table needs can be made.
    ///
    /// # Errors
    /// Terminal, `SuperuserNeeded`, with the statements.
    pub fn is_possible(&self, place: &Place) -> Result<()> {
        match refusal(&self.needed, place) {
            None => Ok(()),
            Some(message) => Err(TaskError::terminal("SuperuserNeeded", message)),
        }
    }
}

/// Why a restore is refused, and what a superuser can do.
pub fn refusal(needed: &[Needed], place: &Place) -> Option<String> {
    if needed.is_empty() {
        return None;
    }
    let lacking: Vec<String> = needed
        .iter()
        .map(|Needed { of, by, .. }| match by.len() {
            0 => format!("{} ({})", of.what, of.why),
            1 => format!("{} ({}), which {} needs", of.what, of.why, by[0]),
            _ => format!("{} ({}), which {} need", of.what, of.why, some(by)),
        })
        .collect();
    let mut statements: Vec<String> = Vec::new();
    for statement in needed.iter().flat_map(|needed| &needed.statements).map(|text| format!("{};", one_line(text))) {
        if !statements.contains(&statement) {
            statements.push(statement);
        }
    }
    let statements = statements.join(" ");
    let advice = match place {
        Place::Template { name, creation } => format!(
            "Nothing was changed. As a superuser, prepare a database from which the restore makes its own: {creation} IS_TEMPLATE true; and \
             in {name}: {statements}"
        ),
        Place::Here(database) => format!("As a superuser, in database {database}: {statements}"),
        Place::Drill { refused } => {
            let said = match refused.is_empty() {
                true => String::new(),
                false => format!(" Its superuser cannot make it either: {}.", refused.join("; ")),
            };
            format!(
                "This says nothing of the backup itself: the drill's PostgreSQL lacks it.{said} Set spec.verify.image to an image of \
                 the same major that has these extensions, libraries and locales."
            )
        }
    };
    Some(format!("Tables need what the restore cannot make: {}. {advice}", lacking.join("; ")))
}

/// What does not come back, for people: a line for each reason.
pub fn told(not_restored: &[NotRestored]) -> Vec<String> {
    let mut by_reason: Vec<(&str, Vec<String>)> = Vec::new();
    for NotRestored { what, why } in not_restored {
        match by_reason.iter_mut().find(|(reason, _)| reason == why) {
            Some((_, names)) => names.push(what.clone()),
            None => by_reason.push((why, vec![what.clone()])),
        }
    }
    by_reason.into_iter().map(|(why, names)| format!("{}: {why}", some(&names))).collect()
}

fn some(names: &[String]) -> String {
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn one_line(statement: &str) -> String {
    statement.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Why an entry cannot be made, whatever it depends on.
fn lacking(entry: &Entry, facts: &Facts, by_id: &BTreeMap<u32, &Entry>) -> Option<String> {
    // Rights are given at the end, one by one.
    if matches!(entry.kind.as_str(), "ACL" | "DEFAULT ACL") {
        return None;
    }
    let superuser_s = |entry: &Entry| {
        let makes_a_type = |id: &u32| by_id.get(id).is_some_and(|of| TYPES.contains(&of.kind.as_str()));
        entry.kind == "CAST" && !entry.needs.iter().any(makes_a_type)
    };
    if !facts.is_superuser && superuser_s(entry) {
        return Some(BY_A_SUPERUSER.to_owned());
    }
    // A body of SQL has semicolons: what stands behind them is no statement of its own.
    let statements = if entry.kind == "FUNCTION" || entry.kind == "PROCEDURE" {
        &entry.statements[..1.min(entry.statements.len())]
    } else {
        &entry.statements
    };
    statements.iter().flat_map(|statement| needs(statement).into_iter().map(move |need| (statement, need))).find_map(
        |(statement, need)| match need {
            Need::Superuser(Kind::Subscription) => Some("a subscription belongs to a server".to_owned()),
            Need::Superuser(_) if facts.is_superuser => None,
            Need::Superuser(_) => Some(BY_A_SUPERUSER.to_owned()),
            Need::Extension(name) => match facts.extensions.get(&name) {
                None => Some("the server does not have its files".to_owned()),
                Some(Available { by_the_owner: false }) if !facts.is_superuser => Some(BY_A_SUPERUSER.to_owned()),
                Some(_) => None,
            },
            Need::Role(name) => (!facts.roles.contains(&name)).then(|| format!("the server has no role {name}")),
            Need::Collation(name) => {
                (!facts.collations.contains(&name)).then(|| format!("the server has no collation {name}"))
            }
            Need::Locale => facts
                .refused_collations
                .contains(&statement.text)
                .then(|| "the server does not know its locale".to_owned()),
        },
    )
}

/// A publication without what it is to publish is another one.
fn publications(contents: &Contents, fates: &mut BTreeMap<u32, Fate>) {
    for entry in contents.entries.iter().filter(|entry| entry.kind.starts_with("PUBLICATION ")) {
        if !matches!(fates[&entry.id], Fate::LeftOut { .. }) {
            continue;
        }
        for of in contents.entries.iter().filter(|of| of.kind == "PUBLICATION" && entry.needs.contains(&of.id)) {
            fates.insert(of.id, Fate::LeftOut { root: entry.id });
        }
    }
}

/// What depends on what is left out is left out too, unless it is part of a table: then the table needs it.
fn follow(
    contents: &Contents,
    by_id: &BTreeMap<u32, &Entry>,
    fates: &mut BTreeMap<u32, Fate>,
    needed: &mut BTreeMap<u32, Vec<String>>,
) {
    let is_of_a_table = |entry: &Entry| OF_TABLES.contains(&entry.kind.as_str());
    // What is part of a table and cannot be made is needed by itself, whoever else needs it.
    for entry in contents.entries.iter().filter(|entry| is_of_a_table(entry)) {
        if matches!(fates[&entry.id], Fate::LeftOut { .. }) {
            needed.entry(entry.id).or_default();
        }
    }
    loop {
        let mut changed = false;
        for entry in &contents.entries {
            if !matches!(fates[&entry.id], Fate::Made) {
                continue;
            }
            let missing = entry.needs.iter().filter_map(|id| match fates.get(id) {
                Some(Fate::LeftOut { root }) => Some((by_id[id], *root)),
                _ => None,
            });
            let missing: Vec<(&Entry, u32)> = missing.collect();
            let goes_with_it = |(of, _): &&(&Entry, u32)| OTHER_RELATIONS.contains(&of.kind.as_str());
            let relation = missing.iter().find(goes_with_it);
            let Some((_, root)) = relation.or(missing.first()) else { continue };
            if relation.is_none() && is_of_a_table(entry) {
                let (by, shown) = (needed.entry(*root).or_default(), entry.shown());
                if !is_of_a_table(by_id[root]) && !by.contains(&shown) {
                    by.push(shown);
                }
                continue;
            }
            fates.insert(entry.id, Fate::LeftOut { root: *root });
            changed = true;
        }
        if !changed {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
