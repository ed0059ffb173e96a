//! Synapse's media store: which folders of it are backed up, and whether they can be read.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sqlx::Row;

use crate::{
    api::operation::StepPlan,
    postgres::{Explain, Session},
    restic::Refused,
    task::report::{Result, TaskError},
};

/// Folders with what users of this homeserver uploaded. Names are those of `synapse/media/filepath.py`.
const LOCAL: [&str; 2] = ["local_content", "local_thumbnails"];
/// Folders with what Synapse has fetched from other homeservers.
const REMOTE: [&str; 2] = ["remote_content", "remote_thumbnail"];
/// Previews of web pages: Synapse deletes them after days, and makes new ones.
const PREVIEWS: [&str; 2] = ["url_cache", "url_cache_thumbnails"];

/// So deep are the folders: `local_thumbnails/aa/bb/<rest>/<thumbnail>`.
const DEPTH: usize = 6;

/// Which files.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaStore {
    /// Synapse's media_store_path.
    #[arg(long)]
    pub media_store: PathBuf,
    /// Also what Synapse has fetched from other homeservers.
    #[arg(long)]
    #[serde(default)]
    pub remote_media: bool,
}

impl MediaStore {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let remote = self.remote_media.then(|| "--remote-media".to_owned());
        [format!("--media-store={}", self.media_store.display())].into_iter().chain(remote).collect()
    }

    /// The folders that are there, of those that are wanted: Synapse makes each with its first file.
    ///
    /// # Errors
    /// Terminal: `MediaMissing`, if there is no such media store; `MediaUnreadable`.
    pub fn folders(&self) -> Result<Vec<&'static str>> {
        match fs::read_dir(&self.media_store) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(unreadable(&format!("{}: {error}", self.media_store.display())));
            }
            Err(error) => return Err(self.missing(&error.to_string())),
        }
        let remote = REMOTE.into_iter().filter(|_| self.remote_media);
        Ok(LOCAL.into_iter().chain(remote).filter(|folder| self.media_store.join(folder).is_dir()).collect())
    }

    /// What would make it fail, and what it would do. Changes nothing.
    ///
    /// # Errors
    /// Terminal: `MediaMissing`, also where the database knows of media and no folder of Synapse's is there;
    /// `MediaUnreadable`.
    pub async fn check(&self, session: &mut Session, step: &str) -> Result<StepPlan> {
        let folders = self.folders()?;
        let all = LOCAL.iter().chain(&REMOTE).chain(&PREVIEWS);
        let is_empty = !all.into_iter().any(|folder| self.media_store.join(folder).is_dir());
        if is_empty && has_media(session).await? {
            return Err(self.missing("the database knows of media, and none of Synapse's folders is in it"));
        }
        for folder in &folders {
            first_file(&self.media_store.join(folder), DEPTH)
                .map_err(|error| unreadable(&format!("{folder}: {error}")))?;
        }
        let what = if folders.is_empty() { "no media: there are none yet".to_owned() } else { folders.join(", ") };
        Ok(StepPlan { step: step.to_owned(), summary: format!("would back up {what}"), ..StepPlan::default() })
    }

    fn missing(&self, why: &str) -> TaskError {
        TaskError::terminal(
            "MediaMissing",
            format!(
                "There is no media store at {}: {why}. spec.mediaStore.path of the Synapse object is Synapse's \
                 media_store_path, as seen from the root of the claim.",
                self.media_store.display()
            ),
        )
    }
}

/// Whether users have uploaded anything.
async fn has_media(session: &mut Session) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM local_media_repository WHERE url_cache IS NULL)";
    let row = sqlx::query(sql).fetch_one(&mut session.connection).await.explain("looking for media in the database")?;
    Ok(row.get(0))
}

/// Opens the first file that it comes upon: who may read one may read all.
fn first_file(folder: &Path, depth: usize) -> io::Result<()> {
    let Some(entry) = fs::read_dir(folder)?.next().transpose()? else { return Ok(()) };
    match entry.file_type()?.is_dir() {
        true if depth == 0 => Ok(()),
        true => first_file(&entry.path(), depth - 1),
        false => match fs::File::open(entry.path()) {
            // Synapse deletes media at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            opened => opened.map(drop),
        },
    }
}

/// The error of media that this user may not read.
fn unreadable(what: &str) -> TaskError {
    TaskError::terminal(
        "MediaUnreadable",
        format!(
            "User {} may not read the media: {what}. Set jobs.runAsUser of the Synapse object to the user of Synapse's Pods, \
             or jobs.fsGroup to a group that may read them.",
            user()
        ),
    )
}

/// The error of files that could not be read.
pub fn not_read(refused: &[Refused]) -> TaskError {
    let what = list(refused);
    match refused.iter().any(Refused::is_about_rights) {
        true => unreadable(&what),
        false => TaskError::transient("MediaUnreadable", format!("Some media cannot be read: {what}.")),
    }
}

/// The error of files that could not be written. restic does not always say why.
pub fn not_written(refused: &[Refused]) -> TaskError {
    TaskError::terminal(
        "MediaNotWritten",
        format!(
            "User {} could not write all media: {}. Run it as Synapse's user, with space enough; what is written stays.",
            user(),
            list(refused)
        ),
    )
}

fn list(refused: &[Refused]) -> String {
    let some: Vec<String> = refused.iter().take(3).map(ToString::to_string).collect();
    some.join("; ")
}

/// The user id of this process.
fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folders: &[&str], remote_media: bool) -> (tempfile::TempDir, MediaStore) {
        let root = tempfile::tempdir().unwrap();
        folders.iter().for_each(|folder| fs::create_dir_all(root.path().join(folder)).unwrap());
        let store = MediaStore { media_store: root.path().to_owned(), remote_media };
        (root, store)
    }

    #[test]
    fn previews_are_never_taken_and_what_is_of_others_only_if_wanted() {
        let all = [&LOCAL[..], &REMOTE, &PREVIEWS].concat();
        let (_root, local) = store(&all, false);
        assert_eq!(local.folders().unwrap(), LOCAL);
        let (_root, remote) = store(&all, true);
        assert_eq!(remote.folders().unwrap(), [LOCAL, REMOTE].concat());
        let (_root, young) = store(&["url_cache"], true);
        assert_eq!(young.folders().unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn a_path_that_is_wrong_is_told() {
        let (root, store) = store(&[], false);
        let store = MediaStore { media_store: root.path().join("media_stroe"), ..store };
        let error = store.folders().unwrap_err();
        assert_eq!(error.reason, "MediaMissing");
        assert!(error.message.contains("media_stroe") && error.message.contains("spec.mediaStore.path"), "{error}");
    }

    #[test]
    fn rights_are_for_a_person_and_the_rest_for_another_try() {
        let refused = |why: &str| [Refused { item: "local_content/aa".to_owned(), why: why.to_owned() }];
        let rights = not_read(&refused("open local_content/aa: permission denied"));
        assert_eq!(
            (rights.class, rights.reason.as_str()),
            (crate::task::report::ErrorClass::Terminal, "MediaUnreadable")
        );
        for word in [&format!("User {}", user()), "jobs.runAsUser", "jobs.fsGroup", "local_content/aa"] {
            assert!(rights.message.contains(word), "{word} is not in {rights}");
        }
        let disk = not_read(&refused("read local_content/aa: input/output error"));
        assert_eq!(disk.class, crate::task::report::ErrorClass::Transient);
    }
}
