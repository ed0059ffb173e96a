//! Takes backups out of a repository: all of a backup, or nothing of it.
//!
//! A backup loses its manifest first: cut off in the middle it does not exist, and the next run clears the rest away. A storage may
//! refuse to delete: for an append-only key, or while an object lock lasts. That shows before a backup has lost anything: at restic's own lock,
//! at what belongs to no backup, and at last at the oldest manifest, which goes alone.

use std::collections::BTreeSet;

use crate::{
    contract::{ErrorClass, Result},
    restic::Repository,
};

/// A backup that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    pub manifest: String,
    /// restic's snapshots of all else that it consists of.
    pub streams: Vec<String>,
}

/// Takes backups away, the oldest first, and what belongs to none. Gives no space back.
///
/// # Errors
/// Terminal, `RepositoryAccessDenied`: the storage refuses to delete. What restic answers. Every backup is whole or gone, unless
/// the connection broke in between.
pub async fn remove(repository: &Repository, backups: &[Doomed], rest: &[String]) -> Result<()> {
    repository.can_delete().await?;
    repository.forget(rest).await?;
    let manifests: Vec<String> = backups.iter().map(|backup| backup.manifest.clone()).collect();
    let (first, others) = manifests.split_at(manifests.len().min(1));
    let mut done = repository.forget(first).await;
    if done.is_ok() {
        done = repository.forget(others).await;
    }
    let gone: Vec<&Doomed> = match &done {
        Ok(()) => backups.iter().collect(),
        // A lock on objects may have let some go and not others.
        Err(error) if error.class == ErrorClass::Terminal => {
            let left = repository.list(&[]).await?;
            backups.iter().filter(|backup| !left.iter().any(|snapshot| snapshot.id == backup.manifest)).collect()
        }
        Err(_) => return done,
    };
    // Two manifests of one attempt have the same.
    let streams: BTreeSet<String> = gone.iter().flat_map(|backup| backup.streams.clone()).collect();
    let cleared = repository.forget(&streams.into_iter().collect::<Vec<_>>()).await;
    done.and(cleared)
}
