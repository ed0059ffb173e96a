//! What a backup consists of and what is in it: the file that goes in last.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::parts;
use crate::{
    contract::{Result, TaskError},
    postgres::Locale,
    quote,
    restic::Repository,
    synapse::database::{SchemaVersion, Tables},
    task::schema::{Needed, NotRestored},
};

/// The manifest's name in its snapshot.
pub const FILE: &str = "manifest.json";
/// The schema's part (`pg_dump -Fc --schema-only`).
pub const SCHEMA_FILE: &str = "schema.dump";
/// What the names of the files of the Matrix Authentication Service's database begin with.
pub const AUTHENTICATION: &str = "mas-";

/// The homeserver's configuration: manifests of Secrets and ConfigMaps.
pub const CONFIG_FILE: &str = "config.yaml";

/// The version of this format. A reader refuses a higher one. Since 2 there may be media, and a draft beside the manifest. Since 3
/// there may be a second database: an older reader would bring back one of the two. Since 4 the rows are compressed by zstd before
/// restic sees them.
pub const FORMAT: u32 = 4;
/// The oldest that is read.
const OLDEST_FORMAT: u32 = 1;

/// The tag of everything that synapse-keeper stores.
pub const TAG: &str = "synapse-keeper";
/// The tag of a manifest's snapshot.
pub const MANIFEST_TAG: &str = "manifest";
/// The tag of a snapshot with a manifest that still lacks the media.
pub const DRAFT_TAG: &str = "draft";
/// The tag of a snapshot with media.
pub const MEDIA_TAG: &str = "media";

/// What the tag of an owner's snapshots begins with.
pub const ORIGIN: &str = "origin=";

/// The tag of an owner's snapshots.
pub fn origin_tag(origin: &str) -> String {
    format!("{ORIGIN}{origin}")
}

/// Tags of all that these have stored.
pub fn tags_of(origins: &[String]) -> Vec<Vec<String>> {
    origins.iter().map(|origin| vec![TAG.to_owned(), origin_tag(origin)]).collect()
}

/// The tag of all that is stored in this format: another release's leftovers may be none.
pub fn format_tag() -> String {
    format!("format={FORMAT}")
}

/// Whether the tags are of a format that is known.
pub fn is_known(tags: &[String]) -> bool {
    (OLDEST_FORMAT..=FORMAT).any(|format| tags.contains(&format!("format={format}")))
}

/// The tag of a homeserver's snapshots, whoever made them: the cluster that did may be gone.
pub fn server_tag(server_name: &str) -> String {
    format!("server={server_name}")
}

/// The tag of the snapshots that may belong together: those of one attempt at the database, and the media for it.
pub fn attempt_tag(attempt: &str) -> String {
    format!("attempt={attempt}")
}

/// The tag of a manifest's snapshot that says how many streams belong to it.
pub fn parts_tag(parts: usize) -> String {
    format!("parts={parts}")
}

/// The tag of a manifest's snapshot that says which media belong to it.
pub fn media_tag(snapshot: &str) -> String {
    format!("media={snapshot}")
}

/// The tag with the moment that was backed up: restic's own time is that of a node.
pub fn taken_at_tag(taken_at: &Time) -> String {
    format!("taken-at={}", taken_at.0)
}

/// The tag of a manifest's snapshot that says how far the two databases are apart, in seconds.
pub fn apart_tag(seconds: f64) -> String {
    format!("{APART}{seconds:.3}")
}

/// What that tag begins with.
pub const APART: &str = "mas-apart=";

/// The tag of a manifest's snapshot with PostgreSQL's major: whoever restores it needs one that is not older.
pub fn postgres_tag(version: i32) -> String {
    format!("{POSTGRES}{}", version / 10_000)
}

/// What the tag with PostgreSQL's major begins with.
pub const POSTGRES: &str = "postgres=";

/// A backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// UID of the object whose backup it is.
    pub origin: String,
    /// The homeserver's `server_name`.
    pub server_name: String,
    /// The moment of the snapshot, by PostgreSQL's clock: backups are ordered by it.
    pub taken_at: Time,
    /// Synapse's version, as it told it. `None`: it was not asked, or did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synapse_version: Option<String>,
    /// `SCHEMA_VERSION` of Synapse's database.
    pub schema_version: i32,
    /// The oldest Synapse schema whose code can use it (`SCHEMA_COMPAT_VERSION`).
    pub schema_compat_version: Option<i32>,
    /// Synapse's database. The homeserver's configuration is among its parts.
    #[serde(flatten)]
    pub database: Dump,
    /// The database of the Matrix Authentication Service. `None`: the homeserver had none, or did not name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_service: Option<AuthenticationDump>,
    /// The files that users uploaded. `None`: they were not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<StoredMedia>,
    /// Ids of the keys with which the homeserver signed at that moment, such as `ed25519:a_abcd`; none: nobody said where they
    /// are. Never the keys themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_key_ids: Vec<String>,
    /// What of the homeserver is known not to be in it, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A database, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dump {
    /// `server_version_num` of PostgreSQL: it cannot be restored into an older major.
    pub postgres_version: i32,
    #[serde(flatten)]
    pub locale: Locale,
    /// Size of the database, in bytes.
    pub database_bytes: i64,
    /// The schema and the streams of rows, by the name of their file. Sequences know no snapshot; their values stand among
    /// the rows and were read after it was taken, so that none is behind a row.
    pub parts: StoredParts,
    /// Tables whose rows were left out on purpose.
    pub left_out: Vec<String>,
    /// What `spec.exclude` left out: schemas and tables that are not Synapse's. Absent: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
    /// What of the database a restore as Synapse's role does not bring back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_restored: Vec<NotRestored>,
    /// What a restore cannot make and tables need: without a superuser it is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superuser_needed: Vec<Needed>,
    /// Materialized views that nobody had filled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfilled_views: Vec<String>,
    /// The `search_path` of the session that made the backup: materialized views are filled with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_path: Option<String>,
    /// Where Synapse's tables are. Absent: an older release has not said it, or it is another database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}

/// Streams by the name of their file.
pub type StoredParts = BTreeMap<String, StoredPart>;

/// The database of the Matrix Authentication Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationDump {
    /// The moment of the snapshot, by the clock of its own PostgreSQL.
    pub taken_at: Time,
    /// No more than so many seconds lie between the moments of the two databases, by the clock of the task that took both.
    pub apart_seconds: f64,
    /// The newest migration that the service has made (`_sqlx_migrations.version`): one that does not know it does not start.
    pub migration: i64,
    #[serde(flatten)]
    pub database: Dump,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredPart {
    /// restic's id of the snapshot that holds it.
    pub snapshot: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its tables, with the rows that passed by.
    pub rows: BTreeMap<String, u64>,
}

/// Media. They were read after the moment of the database: whatever that knows of is among them, but for what Synapse deleted
/// meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredMedia {
    /// restic's id of the snapshot that holds them, with the paths that they have in Synapse's `media_store_path`.
    pub snapshot: String,
    /// How many files, thumbnails included.
    pub files: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Whether what Synapse has fetched from other homeservers is among them.
    pub remote: bool,
    /// A storage provider of Synapse has media, too: the database may name such as are not among them.
    #[serde(default)]
    pub elsewhere: bool,
}

impl Manifest {
    /// Reads a backup's manifest.
    ///
    /// # Errors
    /// What restic answers; terminal, `ManifestUnreadable`, where it is damaged or of a newer release.
    pub async fn read(repository: &Repository, snapshot: &str) -> Result<Self> {
        let unreadable = |why: String| {
            TaskError::terminal(
                "ManifestUnreadable",
                format!("The manifest of backup {snapshot:.8} cannot be read: {why}."),
            )
        };
        let json = repository.fetch(snapshot, FILE).await?;
        let manifest: Self = serde_json::from_str(&json).map_err(|error| unreadable(error.to_string()))?;
        if manifest.format > FORMAT {
            return Err(unreadable(format!(
                "its format is {}, and this release knows {FORMAT}: use a newer one",
                manifest.format
            )));
        }
        Ok(manifest)
    }

    /// The versions of Synapse's schema.
    pub fn schema(&self) -> SchemaVersion {
        SchemaVersion { version: self.schema_version, compat_version: self.schema_compat_version }
    }

    /// How many streams belong to it.
    pub fn streams(&self) -> usize {
        self.databases().map(|database| database.parts.len()).sum()
    }

    /// Length of all streams and of the media, in bytes.
    pub fn bytes(&self) -> u64 {
        let streams: u64 = self.databases().flat_map(|database| database.parts.values()).map(|part| part.bytes).sum();
        streams + self.media.as_ref().map_or(0, |media| media.bytes)
    }

    /// The newest PostgreSQL that it is from: whoever restores all of it into one server needs one that is not older.
    pub fn newest_postgres(&self) -> i32 {
        self.databases().map(|database| database.postgres_version).max().unwrap_or_default()
    }

    fn databases(&self) -> impl Iterator<Item = &Dump> {
        [&self.database].into_iter().chain(self.authentication_service.as_ref().map(|service| &service.database))
    }
}

impl Dump {
    /// Whether a server of this version, as `server_version_num` has it, can take the dump: a dump cannot go back to an older
    /// PostgreSQL.
    ///
    /// # Errors
    /// Terminal, `PostgresTooOld`.
    pub fn fits(&self, server: i32) -> Result<()> {
        let (here, there) = (server / 10_000, self.postgres_version / 10_000);
        if there <= here {
            return Ok(());
        }
        Err(TaskError::terminal(
            "PostgresTooOld",
            format!(
                "The backup is of PostgreSQL {there}, and this is PostgreSQL {here}: a dump cannot go back to an older one."
            ),
        ))
    }

    /// One of its files.
    ///
    /// # Errors
    /// Terminal, `ManifestUnreadable`, where the manifest does not name that file.
    pub fn part(&self, file: &str) -> Result<&StoredPart> {
        self.parts.get(file).ok_or_else(|| {
            TaskError::terminal(
                "ManifestUnreadable",
                format!("The manifest of the backup names no {file}: it is damaged."),
            )
        })
    }

    /// The name of the file with the schema.
    pub fn schema_file(&self) -> &str {
        self.parts.keys().find(|file| parts::is_schema(file)).map_or(SCHEMA_FILE, String::as_str)
    }

    /// The streams of rows.
    pub fn row_files(&self) -> impl Iterator<Item = &String> {
        self.parts.keys().filter(|file| parts::is_rows(file))
    }

    /// Every table with its rows, by its quoted name.
    pub fn rows_by_table(&self) -> impl Iterator<Item = (&str, u64)> {
        self.parts.values().flat_map(|part| &part.rows).map(|(table, rows)| (table.as_str(), *rows))
    }

    /// The tables by their names without a schema.
    pub fn names(&self) -> Tables<'_> {
        let left_out = self.left_out.iter().map(String::as_str);
        let tables = self.rows_by_table().map(|(table, _)| table).chain(left_out);
        tables.map(|table| table.rsplit('.').next().unwrap_or(table)).collect()
    }

    /// The schemas of its tables, as SQL has them.
    pub fn schemas(&self) -> BTreeSet<String> {
        let tables = self.rows_by_table().map(|(table, _)| table).chain(self.left_out.iter().map(String::as_str));
        tables.map(|table| quote::schema_of(table).to_owned()).collect()
    }

    /// Rows in all tables.
    pub fn rows(&self) -> u64 {
        self.parts.values().flat_map(|part| part.rows.values()).sum()
    }

    /// How many tables have their rows in it.
    pub fn tables(&self) -> usize {
        self.parts.values().map(|part| part.rows.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the second format has it.
    const SECOND: &str = r#"{"format": 2, "origin": "o", "serverName": "example.org", "takenAt": "2026-11-22T02:00:00Z",
        "schemaVersion": 94, "schemaCompatVersion": 89, "postgresVersion": 150020, "encoding": "UTF8", "collate": "C", "ctype": "C",
        "databaseBytes": 100, "leftOut": ["public.e2e_one_time_keys_json"], "seconds": 1.5, "parts": {
            "schema.dump": {"snapshot": "a", "bytes": 10, "rows": {}},
            "data-1.sql": {"snapshot": "b", "bytes": 20, "rows": {"public.users": 2, "public.events": 5}}}}"#;

    #[test]
    fn what_the_second_format_says_is_still_read() {
        let manifest: Manifest = serde_json::from_str(SECOND).unwrap();
        assert_eq!((manifest.streams(), manifest.bytes(), manifest.newest_postgres()), (2, 30, 150_020));
        let database = &manifest.database;
        assert_eq!((database.rows(), database.tables(), database.locale.to_string().as_str()), (7, 2, "UTF8, C, C"));
        assert_eq!((database.schema_file(), database.left_out.len()), ("schema.dump", 1));
        assert_eq!(database.row_files().collect::<Vec<_>>(), ["data-1.sql"]);
        assert_eq!(manifest.authentication_service, None);
        let again = serde_json::from_str::<Manifest>(&serde_json::to_string(&manifest).unwrap());
        assert_eq!(again.unwrap(), manifest);
    }

    #[test]
    fn the_second_database_is_part_of_all_that_is_counted() {
        let mut manifest: Manifest = serde_json::from_str(SECOND).unwrap();
        let mut database = manifest.database.clone();
        database.postgres_version = 170_002;
        database.parts =
            database.parts.into_iter().map(|(file, part)| (format!("{AUTHENTICATION}{file}"), part)).collect();
        assert_eq!(database.schema_file(), "mas-schema.dump");
        assert_eq!(database.row_files().collect::<Vec<_>>(), ["mas-data-1.sql"]);
        let taken_at = manifest.taken_at.clone();
        manifest.authentication_service =
            Some(AuthenticationDump { taken_at, apart_seconds: 0.004, migration: 20_250_709_142_230, database });
        assert_eq!((manifest.streams(), manifest.bytes(), manifest.newest_postgres()), (4, 60, 170_002));
        let json = serde_json::to_value(&manifest).unwrap();
        assert_eq!(json["authenticationService"]["parts"].as_object().unwrap().len(), 2);
        assert_eq!(serde_json::from_value::<Manifest>(json).unwrap(), manifest);
        assert_eq!(apart_tag(0.004), "mas-apart=0.004");
    }
}
