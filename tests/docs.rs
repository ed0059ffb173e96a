//! The documentation says what the code does, as far as a program can tell: every reason is explained, none is made up,
//! and every link leads somewhere.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use synapse_keeper::api::conditions::Type;

/// Literals that look like a reason and are none: words of Kubernetes, kinds, units, answers of storages, and what events call the action.
const NO_REASONS: [&str; 62] = [
    "AccessDenied",
    "Always",
    "BlobImmutableDueToPolicy",
    "ClientAuthentication",
    "ConfigMap",
    "ContainerCannotRun",
    "ContainerCreating",
    "Credentials",
    "DateStyle",
    "Delete",
    "Deletion",
    "Drill",
    "Error",
    "FailureTarget",
    "FallbackToLogsOnError",
    "False",
    "Gi",
    "GiB",
    "IfNotPresent",
    "In",
    "Inspect",
    "IntervalStyle",
    "InvalidAccessKeyId",
    "Job",
    "Ki",
    "KiB",
    "Lease",
    "Mi",
    "MiB",
    "NamespaceTerminating",
    "Never",
    "NoSuchKey",
    "OOMKilled",
    "OnRootMismatch",
    "Parallel",
    "PodInitializing",
    "PodScheduled",
    "Quiesce",
    "QuotaExceeded",
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
    "RemoveObject",
    "ReplicaFailure",
    "Resume",
    "Run",
    "RuntimeDefault",
    "Schedule",
    "Secret",
    "SignatureDoesNotMatch",
    "Somebody",
    "StartError",
    "Synapse",
    "SynapseBackup",
    "SynapseMaintenance",
    "SynapseRestore",
    "Ti",
    "TiB",
    "TimeZone",
    "True",
    "Unschedulable",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `Contested`, but neither `spec.suspend` nor `UTF8`.
fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_uppercase())
        && text.contains(|any: char| any.is_ascii_lowercase())
        && text.chars().all(|any| any.is_ascii_alphanumeric())
}

/// All source but tests, and but `api`, where such literals name columns and derives.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        if ["api", "simulation", "simulation.rs"].contains(&name) || name.ends_with("tests.rs") {
            continue;
        }
        if entry.is_dir() {
            files.extend(sources(&entry));
        } else if name.ends_with(".rs") {
            files.push(entry);
        }
    }
    files
}

/// Literals of one word: every reason is one of them. In `api` only those that a condition is set with.
fn words_of_the_code() -> BTreeSet<String> {
    let words = |file: PathBuf| {
        let text = read(&file);
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        code.split('"').filter(|piece| is_word(piece)).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut found: BTreeSet<String> = sources(&root().join("src")).into_iter().flat_map(words).collect();
    for entry in fs::read_dir(root().join("src/api")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            let text = read(&entry);
            let sets = text.lines().filter(|line| line.contains(".set(Type::"));
            found.extend(sets.flat_map(|line| line.split('"')).filter(|piece| is_word(piece)).map(str::to_owned));
        }
    }
    found
}

/// Words in backticks in the tables that explain reasons.
fn words_of_the_tables() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for name in ["docs/conditions.md", "docs/reasons.md"] {
        let mut in_table = false;
        for event in Parser::new_ext(&read(&root().join(name)), Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Table(_)) => in_table = true,
                Event::End(TagEnd::Table) => in_table = false,
                Event::Code(code) if in_table && is_word(&code) => drop(words.insert(code.into_string())),
                _ => {}
            }
        }
    }
    words
}

/// The first cells of a page's rows, where they are a word.
fn rows(page: &str) -> Vec<String> {
    let text = read(&root().join(page));
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    cells.map(|(cell, _)| cell.to_owned()).filter(|cell| is_word(cell)).collect()
}

#[test]
fn every_reason_has_one_row() {
    let mut rows = rows("docs/reasons.md");
    assert!(rows.len() > 200, "{}", rows.len());
    rows.sort_unstable();
    let twice: Vec<_> = rows.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn every_reason_is_explained_and_none_is_made_up() {
    let (code, docs) = (words_of_the_code(), words_of_the_tables());
    let no_reasons: BTreeSet<String> = NO_REASONS.map(str::to_owned).into();
    let types: BTreeSet<String> = Type::ALL.map(|type_| type_.as_str().to_owned()).into();
    let (reasons, explained) = (&code - &no_reasons, &docs - &types);
    let none = BTreeSet::new();
    assert_eq!(&no_reasons - &code, none, "in NO_REASONS, but not in src any more");
    assert_eq!(&reasons - &docs, none, "in src, but in no table of the docs; or it belongs to NO_REASONS");
    assert_eq!(&explained - &reasons, none, "in the docs, but nothing in src says it");
}

fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut documents: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    documents.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/README.md"].map(|name| root().join(name)));
    documents
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|any| any.is_alphanumeric() || [' ', '-', '_'].contains(any));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[derive(Default)]
struct Document {
    anchors: BTreeSet<String>,
    links: Vec<String>,
}

impl Document {
    fn read(path: &Path) -> Self {
        let mut document = Self::default();
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(&read(path), Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => document.anchors.extend(heading.take().map(|text| anchor(&text))),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.into_string());
                }
                _ => {}
            }
        }
        document
    }
}

#[test]
fn every_link_leads_somewhere() {
    let documents: HashMap<PathBuf, Document> =
        documents().into_iter().map(|path| (path.clone(), Document::read(&path))).collect();
    let mut checked = 0;
    for (path, document) in &documents {
        for link in document.links.iter().filter(|link| !link.starts_with("https://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let target = target.canonicalize().unwrap_or_else(|error| panic!("{}: {link}: {error}", path.display()));
            if !anchor.is_empty() {
                let there = documents.get(&target).is_some_and(|target| target.anchors.contains(anchor));
                assert!(there, "{}: {link}: there is no such heading", path.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} links were found");
}
