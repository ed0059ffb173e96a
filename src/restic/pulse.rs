//! Whether a restic that works gets on.
//!
//! A storage may take a connection and fall silent, or be gone in the middle. restic tries each request again for a quarter of an
//! hour, and all the while a backup holds the database as it was. So its words are followed as they come: it tells how far it has
//! come, and which request it tries again. One that has complained and has come no further since is given up. One that is slow,
//! and does not complain, is not: it waits for its input, or its network is slow.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{io::AsyncRead, sync::Notify, task::JoinHandle};

use super::{
    errors,
    said::{each_line, keep},
};

/// How often restic tells how far it has come, in times a second.
pub const TELLS: (&str, &str) = ("RESTIC_PROGRESS_FPS", "1");

/// What is known of a restic's progress; all copies know the same.
#[derive(Clone)]
pub struct Pulse {
    last: Arc<Mutex<Beat>>,
    within: Duration,
    /// The work is done, and the storage does not let go of the lock.
    done_but_for_the_lock: Arc<Notify>,
}

struct Beat {
    /// Bytes that are done with.
    done: u64,
    since: Instant,
    /// What it has complained of since.
    complaint: Option<String>,
    /// The summary was there.
    is_over: bool,
}

/// As restic prints it with `--json`.
#[derive(Deserialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
enum Said {
    Status {
        #[serde(default)]
        bytes_done: u64,
        #[serde(default)]
        bytes_restored: u64,
    },
    Summary,
    #[serde(other)]
    Other,
}

impl Pulse {
    /// It is given up when it complains and comes no further within this time.
    pub fn new(within: Duration) -> Self {
        let beat = Beat { done: 0, since: Instant::now(), complaint: None, is_over: false };
        Self { last: Arc::new(Mutex::new(beat)), within, done_but_for_the_lock: Arc::default() }
    }

    /// Reads restic's output beside everything else, and keeps what is no news of its progress.
    pub fn follow(&self, output: Option<impl AsyncRead + Unpin + Send + 'static>) -> JoinHandle<String> {
        let pulse = self.clone();
        tokio::spawn(async move {
            let mut kept = String::new();
            each_line(output, |line| {
                if !pulse.hears_of_progress(line) {
                    keep(&mut kept, line);
                }
            })
            .await;
            kept
        })
    }

    /// Whether that was news of its progress.
    fn hears_of_progress(&self, line: &str) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match serde_json::from_str(line) {
            Ok(Said::Status { bytes_done, bytes_restored }) => {
                let done = bytes_done + bytes_restored;
                if done != last.done {
                    *last = Beat { done, since: Instant::now(), complaint: None, is_over: false };
                }
                true
            }
            Ok(Said::Summary) => {
                last.is_over = true;
                false
            }
            _ => false,
        }
    }

    /// Notes what restic complains of, if that is that it tries something again.
    pub fn hears(&self, line: &str) {
        let Some(why) = errors::tries_again(line) else { return };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.complaint = Some(why);
        if last.is_over && errors::is_about_a_lock_that_stays(line) {
            self.done_but_for_the_lock.notify_one();
        }
    }

    /// Returns when all is stored, and restic only goes on trying to take its lock out of a storage that refuses that: a quarter
    /// of an hour for nothing.
    pub async fn is_done_but_for_the_lock(&self) {
        self.done_but_for_the_lock.notified().await;
    }

    /// Returns when it is given up: what it complained of last.
    pub async fn stops(&self) -> String {
        loop {
            tokio::time::sleep(self.within / 20).await;
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(complaint) = last.complaint.as_ref().filter(|_| last.since.elapsed() > self.within) {
                return complaint.clone();
            }
        }
    }

    pub fn within(&self) -> Duration {
        self.within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRIES: &str = "Save(<data/0123456789>) returned error, retrying after 1.08s: dial tcp: connection refused";

    fn status(done: u64) -> String {
        format!(r#"{{"message_type":"status","percent_done":0,"bytes_done":{done}}}"#)
    }

    async fn is_given_up(said: &[&str]) -> bool {
        let pulse = Pulse::new(Duration::from_millis(200));
        for line in said {
            tokio::time::sleep(Duration::from_millis(120)).await;
            if !pulse.hears_of_progress(line) {
                pulse.hears(line);
            }
        }
        tokio::time::timeout(Duration::from_millis(150), pulse.stops()).await.is_ok()
    }

    #[tokio::test]
    async fn who_complains_and_comes_no_further_is_given_up() {
        let (one, two) = (status(1), status(2));
        assert!(is_given_up(&[RETRIES, &status(0), RETRIES]).await);
        assert!(is_given_up(&[&one, RETRIES, &one]).await);
        assert!(!is_given_up(&[&one, RETRIES, &two]).await, "it came further");
        assert!(!is_given_up(&[&one, &one, &one]).await, "slow is not ill");
        assert!(!is_given_up(&["unrelated", "words"]).await);
    }

    #[tokio::test]
    async fn what_is_no_news_of_progress_is_kept() {
        let said = format!("{}\n{{\"message_type\":\"summary\",\"snapshot_id\":\"abc\"}}\n{}\n", status(1), status(2));
        let kept = Pulse::new(Duration::from_secs(1)).follow(Some(std::io::Cursor::new(said.into_bytes()))).await;
        assert_eq!(kept.unwrap(), "{\"message_type\":\"summary\",\"snapshot_id\":\"abc\"}\n");
    }
}
