//! Locks of a repository. restic takes them out at the end; one that was killed leaves its own behind, and restic waits for
//! such a one as for any other.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Repository, errors, repository::LIST_WITHIN};
use crate::contract::{Result, output::progress};

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

/// Whose lock is in the way.
#[derive(Deserialize)]
struct Lock {
    hostname: String,
}

impl Repository {
    /// Waits until no lock is in the way, and takes those away that are dead: of a process that is gone, or not renewed for
    /// half an hour. One that lives is never taken away.
    ///
    /// # Errors
    /// Transient, `RepositoryLocked`, if somebody works on it for longer. Terminal, `RepositoryAccessDenied`, if a dead lock must
    /// not be deleted.
    pub async fn wait_for_locks(&self, wants: Wants) -> Result<()> {
        let began = Instant::now();
        while let Some(Lock { hostname }) = self.in_the_way(wants).await? {
            if began.elapsed() > HEALS_WITHIN {
                return Err(errors::locked(&hostname, HEALS_WITHIN));
            }
            self.remove_dead_locks().await?;
            if self.in_the_way(wants).await?.is_some() {
                progress(&format!("waits for the lock that {hostname} holds on the repository"));
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Makes sure that restic can take its own lock out again. Where it cannot, no lock that keeps others out must be taken: it
    /// would stay, and stop every later backup. So this comes before what takes something away, and before any wait for locks.
    ///
    /// # Errors
    /// Terminal, `RepositoryAccessDenied`: locks stay, and nothing can be deleted.
    pub async fn can_delete(&self) -> Result<()> {
        match self.lock_and_unlock().await {
            Ok(complaints) => {
                errors::not_deleted(self, "taking a lock out of the repository", &complaints).map_or(Ok(()), Err)
            }
            // Somebody takes something away: whoever holds that lock may delete.
            Err(error) if error.reason == errors::LOCKED => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The names of all locks. Without a lock, so that it need not wait for a prune.
    pub(super) async fn locks(&self) -> Result<Vec<String>> {
        let listed = self.ask(&["list", "locks", "--no-lock"]).await?;
        Ok(listed.split_whitespace().map(str::to_owned).collect())
    }

    /// One of the locks that are in the way.
    async fn in_the_way(&self, wants: Wants) -> Result<Option<Lock>> {
        match wants {
            // restic itself looks at all of them, however many have stayed, at once.
            Wants::ToAdd => match self.lock_and_unlock().await {
                Ok(_) => Ok(None),
                Err(error) if error.reason == errors::LOCKED => Ok(Some(Lock { hostname: errors::holder(&error) })),
                // It had the lock, and could only not give it back.
                Err(error) if errors::is_about_deleting(&error) => Ok(None),
                Err(error) => Err(error),
            },
            Wants::ToTakeAway => {
                for id in self.locks().await? {
                    // It may be gone by now.
                    let Ok(json) = self.ask(&["cat", "lock", &id, "--no-lock"]).await else { continue };
                    if let Ok(lock) = serde_json::from_str(&json) {
                        return Ok(Some(lock));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Takes the lock of who adds something, and gives it back; what restic complained of.
    async fn lock_and_unlock(&self) -> Result<String> {
        self.say(&["cat", "config", "--quiet"], LIST_WITHIN).await.map(|(_, complaints)| complaints)
    }

    async fn remove_dead_locks(&self) -> Result<()> {
        self.ask(&["unlock", "--quiet"]).await.map(drop)
    }
}
