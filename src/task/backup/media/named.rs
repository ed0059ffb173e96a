//! Media that the database names, and whether their files are there: a folder that no volume is mounted at looks like one in which
//! nobody has put anything.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::Path,
};

use sqlx::Row;

use super::unreadable::unreadable;
use crate::{
    contract::{MediaSample, Result, TaskError},
    postgres::{Explain, Session},
};

/// As many of each kind are looked for. Others the next time.
const LOOKED_FOR: i64 = 100;

/// A table is read in parts of so many rows, about: a sample of a part is a sample of all.
const ROWS: f64 = 20_000.0;

/// Kinds of files, by the folder that they are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Content,
    Thumbnail,
    Remote,
}

/// A file that the database names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    kind: Kind,
    media_id: String,
    /// Of another homeserver: of which.
    origin: Option<String>,
    /// Within Synapse's media_store_path.
    path: String,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Self::Content => "local_content",
            Self::Thumbnail => "local_thumbnails",
            Self::Remote => "remote_content",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::Content => "local_media_repository",
            Self::Thumbnail => "local_media_repository_thumbnails",
            Self::Remote => "remote_media_cache",
        }
    }

    /// Origin, id in the store, file within its folder, id in the table. Not named: previews of web pages, media that was announced and
    /// is not uploaded yet, and media in quarantine, whose files an administrator may have taken away.
    fn sql(self) -> &'static str {
        match self {
            Self::Content => {
                "SELECT NULL, media_id, NULL, media_id FROM local_media_repository TABLESAMPLE SYSTEM ($1) \
                 WHERE url_cache IS NULL AND media_length IS NOT NULL AND quarantined_by IS NULL ORDER BY random() LIMIT $2"
            }
            Self::Thumbnail => {
                "SELECT NULL, t.media_id, format('%s-%s-%s-%s', t.thumbnail_width, t.thumbnail_height, \
                 replace(t.thumbnail_type, '/', '-'), t.thumbnail_method), t.media_id \
                 FROM local_media_repository_thumbnails t TABLESAMPLE SYSTEM ($1) JOIN local_media_repository m USING (media_id) \
                 WHERE m.url_cache IS NULL AND m.quarantined_by IS NULL ORDER BY random() LIMIT $2"
            }
            Self::Remote => {
                "SELECT media_origin, filesystem_id, NULL, media_id FROM remote_media_cache TABLESAMPLE SYSTEM ($1) \
                 WHERE filesystem_id IS NOT NULL AND quarantined_by IS NULL ORDER BY random() LIMIT $2"
            }
        }
    }
}

impl Named {
    /// As `synapse/media/filepath.py` has it. `None`: Synapse would not take it for a path either.
    fn new(kind: Kind, origin: Option<String>, id: &str, file: Option<&str>, media_id: String) -> Option<Self> {
        if !id.is_ascii() || id.len() < 5 {
            return None;
        }
        let parts = [origin.as_deref(), Some(&id[..2]), Some(&id[2..4]), Some(&id[4..]), file];
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        let is_name = |part: &&str| !part.is_empty() && *part != "." && *part != ".." && !part.contains(['/', '\0']);
        if !parts.iter().all(is_name) {
            return None;
        }
        Some(Self { kind, media_id, path: format!("{}/{}", kind.folder(), parts.join("/")), origin })
    }
}

/// A sample of the files that a database of Synapse names.
///
/// # Errors
/// What PostgreSQL says.
pub async fn sample(session: &mut Session, remote: bool) -> Result<Vec<Named>> {
    let mut named = Vec::new();
    let kinds = [Kind::Content, Kind::Thumbnail].into_iter().chain(remote.then_some(Kind::Remote));
    for kind in kinds {
        let rows = "SELECT reltuples FROM pg_class WHERE oid = to_regclass($1)";
        let rows: Option<f32> = sqlx::query_scalar(rows)
            .bind(kind.table())
            .fetch_optional(&mut session.connection)
            .await
            .explain("looking for media in the database")?;
        let Some(rows) = rows else { continue };
        let part = if f64::from(rows) > ROWS { 100.0 * ROWS / f64::from(rows) } else { 100.0 };
        let mut of_kind = draw(session, kind, part).await?;
        // They may all lie together, or be few among previews.
        if of_kind.is_empty() && part < 100.0 {
            of_kind = draw(session, kind, 100.0).await?;
        }
        named.extend(of_kind);
    }
    Ok(named)
}

async fn draw(session: &mut Session, kind: Kind, percent: f64) -> Result<Vec<Named>> {
    let drawn = sqlx::query(kind.sql())
        .bind(percent as f32)
        .bind(LOOKED_FOR)
        .fetch_all(&mut session.connection)
        .await
        .explain("looking for media in the database")?;
    let named = drawn.iter().filter_map(|row| {
        let (origin, id, file): (Option<String>, Option<String>, Option<String>) = (row.get(0), row.get(1), row.get(2));
        Named::new(kind, origin, &id?, file.as_deref(), row.get(3))
    });
    Ok(named.collect())
}

/// Those whose files are not in the store, and that the database still names: Synapse deletes media at any time.
///
/// # Errors
/// Terminal, `MediaUnreadable`. What PostgreSQL says.
pub async fn missing_in(store: &Path, named: &[Named], session: &mut Session) -> Result<Vec<Named>> {
    let mut missing = Vec::new();
    for one in named {
        match fs::symlink_metadata(store.join(&one.path)) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                missing.push(one.clone());
            }
            Err(error) => return Err(unreadable(&format!("{}: {error}", one.path))),
        }
    }
    let still = still_named(session, &missing).await?;
    missing.retain(|one| still.contains(&(one.origin.clone(), one.media_id.clone())));
    Ok(missing)
}

async fn still_named(session: &mut Session, missing: &[Named]) -> Result<HashSet<(Option<String>, String)>> {
    if missing.is_empty() {
        return Ok(HashSet::new());
    }
    let (origins, ids): (Vec<Option<String>>, Vec<String>) =
        missing.iter().map(|one| (one.origin.clone(), one.media_id.clone())).unzip();
    let sql = "SELECT wanted.origin, wanted.id FROM unnest($1::text[], $2::text[]) wanted (origin, id) \
               WHERE CASE WHEN wanted.origin IS NULL \
                   THEN EXISTS (SELECT FROM local_media_repository m WHERE m.media_id = wanted.id) \
                   ELSE EXISTS (SELECT FROM remote_media_cache m WHERE m.media_origin = wanted.origin AND m.media_id = wanted.id) END";
    let rows = sqlx::query(sql).bind(origins).bind(ids).fetch_all(&mut session.connection).await;
    Ok(rows.explain("looking for media in the database")?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Files that are looked for one after the other, in what a backup has.
pub struct Wanted {
    named: Vec<Named>,
    missing: BTreeMap<String, Named>,
}

impl Wanted {
    pub fn new(named: Vec<Named>) -> Self {
        let missing = named.iter().map(|one| (one.path.clone(), one.clone())).collect();
        Self { named, missing }
    }

    /// A file is there. Its path may begin with `/`.
    pub fn is_there(&mut self, path: &str) {
        if !self.missing.is_empty() {
            self.missing.remove(path.trim_start_matches('/'));
        }
    }

    /// What was found.
    ///
    /// # Errors
    /// As [`judge`].
    pub fn judge(self, place: &str) -> Result<MediaSample> {
        judge(&self.named, &self.missing.into_values().collect::<Vec<_>>(), place)
    }
}

/// What it means that some of the files are missing. Pure.
///
/// # Errors
/// Terminal, `MediaMissing`: of a kind none is there.
pub fn judge(named: &[Named], missing: &[Named], place: &str) -> Result<MediaSample> {
    for kind in [Kind::Content, Kind::Thumbnail, Kind::Remote] {
        let count = |all: &[Named]| all.iter().filter(|one| one.kind == kind).count();
        let Some(example) = missing.iter().find(|one| one.kind == kind) else { continue };
        if count(missing) == count(named) {
            return Err(TaskError::terminal(
                "MediaMissing",
                format!(
                    "The database names media (table {}), and none of the {} files that were looked for is in {} of {place}; \
                     one of them is {}. Is that folder a volume of its own, or does spec.mediaStore of the Synapse object name \
                     another place than Synapse's media_store_path? Where a storage provider of Synapse has the media, such as \
                     S3, set spec.mediaStore.elsewhere of the Synapse object to true.",
                    kind.table(),
                    count(named),
                    kind.folder(),
                    example.path,
                ),
            ));
        }
    }
    Ok(MediaSample {
        looked_for: i64::try_from(named.len()).unwrap_or(i64::MAX),
        missing: i64::try_from(missing.len()).unwrap_or(i64::MAX),
        example: missing.first().map(|example| example.path.clone()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(id: &str) -> Option<Named> {
        Named::new(Kind::Content, None, id, None, id.to_owned())
    }

    fn thumbnail(id: &str, file: &str) -> Option<Named> {
        Named::new(Kind::Thumbnail, None, id, Some(file), id.to_owned())
    }

    #[test]
    fn paths_are_those_of_synapse() {
        assert_eq!(content("AAbbccdd").unwrap().path, "local_content/AA/bb/ccdd");
        let small = thumbnail("AAbbccdd", "32-32-image-png-crop").unwrap();
        assert_eq!(small.path, "local_thumbnails/AA/bb/ccdd/32-32-image-png-crop");
        let remote = Named::new(Kind::Remote, Some("example.net:8448".to_owned()), "xxyyzz", None, "id".to_owned());
        assert_eq!(remote.unwrap().path, "remote_content/example.net:8448/xx/yy/zz");
    }

    #[test]
    fn what_is_no_path_is_not_looked_for() {
        for id in ["", "abcd", "..aaaa", "aa..bb", "aabb../../x", "aa/bbb", "äöüäöü"] {
            assert_eq!(content(id), None, "{id}");
        }
        assert_eq!(Named::new(Kind::Remote, Some("..".to_owned()), "xxyyzz", None, String::new()), None);
    }

    #[test]
    fn none_is_a_refusal_and_some_is_a_number() {
        let named: Vec<Named> = ["aabbcc", "aabbdd", "aabbee"].iter().filter_map(|id| content(id)).collect();
        assert_eq!(judge(&named, &[], "/media").map(|found| found.missing), Ok(0));
        let some = judge(&named, &named[1..2], "/media").unwrap();
        assert_eq!((some.looked_for, some.missing, some.example.as_str()), (3, 1, "local_content/aa/bb/dd"));
        let none = judge(&named, &named, "/media").unwrap_err();
        assert_eq!(none.reason, "MediaMissing");
        for words in ["3 files", "local_content of /media", "local_content/aa/bb/cc", "spec.mediaStore.elsewhere"] {
            assert!(none.message.contains(words), "{words} is not in {none}");
        }
        assert_eq!(judge(&[], &[], "/media"), Ok(MediaSample::default()));
    }

    #[test]
    fn each_kind_has_a_folder_of_its_own() {
        let named = [content("aabbcc"), content("aabbdd"), thumbnail("aabbcc", "1-1-image-png-crop")];
        let named: Vec<Named> = named.into_iter().flatten().collect();
        let error = judge(&named, &named[2..], "/media").unwrap_err();
        assert!(error.message.contains("local_thumbnails of /media"), "{error}");
        let mut wanted = Wanted::new(named);
        wanted.is_there("/local_content/aa/bb/cc");
        wanted.is_there("/local_thumbnails/aa/bb/cc/1-1-image-png-crop");
        assert_eq!(wanted.judge("the backup").unwrap().missing, 1);
    }
}
