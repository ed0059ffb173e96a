//! Locks of a repository. restic takes them out at the end; one that was killed leaves its own behind, and restic waits for
//! such a one as for any other.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Repository, errors};
use crate::task::{output::progress, report::Result};

/// Others' locks are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Longer than restic takes a lock for living that its owner does not renew (half an hour).
const HEALS_WITHIN: Duration = Duration::from_secs(35 * 60);

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// To add: only a prune or a forget is in the way.
    ToAdd,
    /// To take away: everybody is in the way.
    ToTakeAway,
}

#[derive(Deserialize)]
struct Lock {
    exclusive: bool,
    hostname: String,
}

impl Repository {
    /// Waits until no lock is in the way, and takes those away that are dead: of a process that is gone, or not renewed for
    /// half an hour. One that lives is never taken away.
    ///
    /// # Errors
    /// Transient, `RepositoryLocked`, if somebody works on it for longer.
    pub async fn wait_for_locks(&self, wants: Wants) -> Result<()> {
        let locks = self.locks().await?;
        self.wait_for(locks, wants).await
    }

    /// The same, where it is known which locks there were a moment ago.
    pub(super) async fn wait_for(&self, mut locks: Vec<String>, wants: Wants) -> Result<()> {
        let began = Instant::now();
        while let Some(Lock { hostname, .. }) = self.in_the_way(&locks, wants).await {
            if began.elapsed() > HEALS_WITHIN {
                return Err(errors::locked(&hostname, HEALS_WITHIN));
            }
            self.remove_dead_locks().await?;
            locks = self.locks().await?;
            if self.in_the_way(&locks, wants).await.is_some() {
                progress(&format!("waits for the lock that {hostname} holds on the repository"));
                tokio::time::sleep(LOOK_EVERY).await;
                locks = self.locks().await?;
            }
        }
        Ok(())
    }

    /// The names of all locks. Without a lock, so that it need not wait for a prune.
    pub(super) async fn locks(&self) -> Result<Vec<String>> {
        let listed = self.ask(&["list", "locks", "--no-lock"]).await?;
        Ok(listed.split_whitespace().map(str::to_owned).collect())
    }

    async fn in_the_way(&self, locks: &[String], wants: Wants) -> Option<Lock> {
        for id in locks {
            // It may be gone by now.
            let Ok(json) = self.ask(&["cat", "lock", id, "--no-lock"]).await else { continue };
            let Ok(lock) = serde_json::from_str::<Lock>(&json) else { continue };
            if lock.exclusive || wants == Wants::ToTakeAway {
                return Some(lock);
            }
        }
        None
    }

    async fn remove_dead_locks(&self) -> Result<()> {
        self.ask(&["unlock", "--quiet"]).await.map(drop)
    }
}
