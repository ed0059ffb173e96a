//! Synapse's media store: which folders of it are backed up, and whether they can be read.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    links, named,
    unreadable::{unreadable, user},
};
use crate::{
    contract::{MediaSample, Result, StepPlan, TaskError},
    postgres::Session,
    restic::Refused,
};

/// Folders with what users of this homeserver uploaded. Names are those of `synapse/media/filepath.py`.
const LOCAL: [&str; 2] = ["local_content", "local_thumbnails"];
/// Folders with what Synapse has fetched from other homeservers.
const REMOTE: [&str; 2] = ["remote_content", "remote_thumbnail"];
/// All that a backup can have. Previews of web pages (`url_cache`) are not among them: Synapse deletes them after days, and makes
/// new ones.
pub const ALL: [&str; 4] = [LOCAL[0], LOCAL[1], REMOTE[0], REMOTE[1]];

/// So deep are the folders: `local_thumbnails/aa/bb/<rest>/<thumbnail>`.
const DEPTH: usize = 6;

/// Preflight looks for links for so long. The task itself looks everywhere.
pub const LOOKS_FOR_LINKS: Duration = Duration::from_secs(60);

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
    /// A storage provider of Synapse has the media: those that the database names are not looked for.
    #[arg(long)]
    #[serde(default)]
    pub media_elsewhere: bool,
}

impl MediaStore {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let remote = self.remote_media.then(|| "--remote-media".to_owned());
        let elsewhere = self.media_elsewhere.then(|| "--media-elsewhere".to_owned());
        [format!("--media-store={}", self.media_store.display())].into_iter().chain(remote).chain(elsewhere).collect()
    }

    /// The folders that are there, of those that are wanted: Synapse makes each with its first file.
    ///
    /// # Errors
    /// Terminal: `MediaMissing`, if there is no such media store; `MediaUnreadable`; `MediaLinked`, where one of them is a link.
    pub fn folders(&self) -> Result<Vec<&'static str>> {
        match fs::read_dir(&self.media_store) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(unreadable(&format!("{}: {error}", self.media_store.display())));
            }
            Err(error) => return Err(self.missing(&error.to_string())),
        }
        let wanted = if self.remote_media { ALL.as_slice() } else { &LOCAL };
        links::refuse(&self.media_store, wanted, Some(Instant::now()))?;
        Ok(wanted.iter().copied().filter(|folder| self.media_store.join(folder).is_dir()).collect())
    }

    /// What would make it fail, and what it would do. Changes nothing.
    ///
    /// # Errors
    /// Terminal: `MediaMissing`, also where none of the files is there that the database names; `MediaUnreadable`; `MediaLinked`.
    pub async fn check(&self, session: &mut Session, step: &str) -> Result<StepPlan> {
        let folders = self.folders()?;
        links::refuse(&self.media_store, &folders, Some(Instant::now() + LOOKS_FOR_LINKS))?;
        for folder in &folders {
            first_file(&self.media_store.join(folder), DEPTH)
                .map_err(|error| unreadable(&format!("{folder}: {error}")))?;
        }
        let media = if self.media_elsewhere { None } else { Some(self.sample(session).await?) };
        let what = if folders.is_empty() { "no media: there are none yet".to_owned() } else { folders.join(", ") };
        let summary = format!("would back up {what}");
        Ok(StepPlan { step: step.to_owned(), summary, media, ..StepPlan::default() })
    }

    /// Looks for some of the files that the database names.
    async fn sample(&self, session: &mut Session) -> Result<MediaSample> {
        let named = named::sample(session, self.remote_media).await?;
        let missing = named::missing_in(&self.media_store, &named, session).await?;
        named::judge(&named, &missing, &self.media_store.display().to_string())
    }

    fn missing(&self, why: &str) -> TaskError {
        TaskError::terminal(
            "MediaMissing",
            format!(
                "There is no media store at {}{}: {why}. spec.mediaStore.path of the Synapse object is Synapse's \
                 media_store_path, as seen from the root of the claim.",
                self.media_store.display(),
                // One that leads out of the claim leads nowhere in the Job.
                fs::read_link(&self.media_store).map(|to| format!(" (a link to {})", to.display())).unwrap_or_default()
            ),
        )
    }
}

/// Opens the first file that it comes upon: who may read one may read all.
fn first_file(folder: &Path, depth: usize) -> io::Result<()> {
    let opened = (|| {
        let Some(entry) = fs::read_dir(folder)?.next().transpose()? else { return Ok(()) };
        match entry.file_type()?.is_dir() {
            true if depth == 0 => Ok(()),
            true => first_file(&entry.path(), depth - 1),
            false => fs::File::open(entry.path()).map(drop),
        }
    })();
    match opened {
        // Synapse deletes media at any time.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folders: &[&str], remote_media: bool) -> (tempfile::TempDir, MediaStore) {
        let root = tempfile::tempdir().unwrap();
        folders.iter().for_each(|folder| fs::create_dir_all(root.path().join(folder)).unwrap());
        let store = MediaStore { media_store: root.path().to_owned(), remote_media, media_elsewhere: false };
        (root, store)
    }

    #[test]
    fn previews_are_never_taken_and_what_is_of_others_only_if_wanted() {
        let all = [&ALL[..], &["url_cache", "url_cache_thumbnails"]].concat();
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
    fn what_is_deleted_before_it_is_opened_is_no_error() {
        let (root, _) = store(&["local_content"], false);
        assert_eq!(first_file(&root.path().join("local_content/aa"), DEPTH).map_err(|error| error.kind()), Ok(()));
        fs::write(root.path().join("local_content/file"), "").unwrap();
        let no_folder = first_file(&root.path().join("local_content/file"), DEPTH).map_err(|error| error.kind());
        assert_eq!(no_folder, Err(io::ErrorKind::NotADirectory));
    }

    #[test]
    fn rights_are_for_a_person_and_the_rest_for_another_try() {
        let refused = |why: &str| [Refused { item: "local_content/aa".to_owned(), why: why.to_owned() }];
        let rights = not_read(&refused("open local_content/aa: permission denied"));
        assert_eq!((rights.class, rights.reason.as_str()), (crate::contract::ErrorClass::Terminal, "MediaUnreadable"));
        for word in [&format!("User {}", user()), "jobs.runAsUser", "jobs.fsGroup", "local_content/aa"] {
            assert!(rights.message.contains(word), "{word} is not in {rights}");
        }
        let disk = not_read(&refused("read local_content/aa: input/output error"));
        assert_eq!(disk.class, crate::contract::ErrorClass::Transient);
    }
}
