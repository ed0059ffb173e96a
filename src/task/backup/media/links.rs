//! Links in a media store. restic stores a link, never the file behind it, and a restore puts a folder in the place of a link.
//! So a backup and a restore refuse both. A media store that is itself a link is followed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use super::unreadable::unreadable;
use crate::contract::{Result, TaskError};

/// As many are named.
const NAMED: usize = 3;

/// Refuses links in these folders of a media store, and folders that are links. What is not looked at by `until` is not refused: the
/// task looks again, and has the time.
///
/// # Errors
/// Terminal: `MediaLinked`, `MediaUnreadable`.
pub fn refuse(store: &Path, folders: &[&str], until: Option<Instant>) -> Result<()> {
    let mut found = Found::default();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| store.join(folder)).collect();
    folders.retain(|folder| match fs::symlink_metadata(folder) {
        Ok(metadata) if metadata.is_symlink() => {
            found.push(folder);
            false
        }
        Ok(metadata) => metadata.is_dir(),
        Err(_) => false,
    });
    while let Some(folder) = folders.pop() {
        if until.is_some_and(|until| Instant::now() > until) {
            break;
        }
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Synapse deletes media at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(&format!("{}: {error}", folder.display()))),
        };
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(&format!("{}: {error}", folder.display())))?;
            match entry.file_type() {
                Ok(kind) if kind.is_symlink() => found.push(&entry.path()),
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => {}
            }
        }
    }
    found.refused()
}

#[derive(Default)]
struct Found {
    count: usize,
    named: Vec<String>,
}

impl Found {
    fn push(&mut self, link: &Path) {
        self.count += 1;
        if self.named.len() < NAMED {
            let to = fs::read_link(link).map(|to| to.display().to_string()).unwrap_or_default();
            self.named.push(format!("{} is a link to {to}", link.display()));
        }
    }

    fn refused(self) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let more = match self.count - self.named.len() {
            0 => String::new(),
            more => format!("; and {more} more links"),
        };
        Err(TaskError::terminal(
            "MediaLinked",
            format!(
                "{}{more}. A backup would store a link without the file behind it, and a restore would replace the link. \
                 Nothing was changed. Move the files themselves to the place of the link, or mount their volume there.",
                self.named.join("; ")
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Duration};

    use super::*;

    fn store() -> tempfile::TempDir {
        let store = tempfile::tempdir().unwrap();
        fs::create_dir_all(store.path().join("local_content/aa/bb")).unwrap();
        fs::write(store.path().join("local_content/aa/bb/file"), "file").unwrap();
        store
    }

    fn refused(store: &Path) -> Option<String> {
        refuse(store, &["local_content", "local_thumbnails"], None).err().map(|error| {
            assert_eq!(error.reason, "MediaLinked");
            error.message
        })
    }

    #[test]
    fn every_kind_of_link_is_refused_by_its_name() {
        let plain = store();
        assert_eq!(refused(plain.path()), None, "a folder that is not there is none");
        for (link, to) in [
            ("local_thumbnails", "local_content"),
            ("local_thumbnails", "nowhere"),
            ("local_content/aa/cc", "bb"),
            ("local_content/aa/bb/linked", "file"),
            ("local_content/aa/bb/loop", ".."),
        ] {
            let store = store();
            symlink(to, store.path().join(link)).unwrap();
            let message = refused(store.path()).expect(link);
            assert!(message.contains(&format!("{link} is a link to {to}")), "{message}");
        }
    }

    #[test]
    fn a_store_that_is_a_link_itself_is_followed() {
        let (store, place) = (store(), tempfile::tempdir().unwrap());
        symlink(store.path(), place.path().join("media_store")).unwrap();
        assert_eq!(refused(&place.path().join("media_store")), None);
    }

    #[test]
    fn many_links_are_counted_and_some_are_named() {
        let store = store();
        (0..10).for_each(|index| symlink("x", store.path().join(format!("local_content/aa/{index}"))).unwrap());
        let message = refused(store.path()).unwrap();
        assert!(message.contains("; and 7 more links"), "{message}");
    }

    #[test]
    fn it_ends_in_time() {
        let store = store();
        symlink("x", store.path().join("local_content/aa/link")).unwrap();
        let past = Instant::now().checked_sub(Duration::from_secs(1));
        assert_eq!(refuse(store.path(), &["local_content"], past), Ok(()));
    }
}
