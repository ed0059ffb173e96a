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
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    task::JoinHandle,
};

use super::errors;

/// How often restic tells how far it has come, in times a second.
pub const TELLS: (&str, &str) = ("RESTIC_PROGRESS_FPS", "1");

/// Of what a program says, as much is kept.
const WORDS: usize = 16 << 10;

/// What is known of a restic's progress; all copies know the same.
#[derive(Clone)]
pub struct Pulse {
    last: Arc<Mutex<Beat>>,
    within: Duration,
}

struct Beat {
    /// Bytes that are done with.
    done: u64,
    since: Instant,
    /// What it has complained of since.
    complaint: Option<String>,
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
    #[serde(other)]
    Other,
}

impl Pulse {
    /// It is given up when it complains and comes no further within this time.
    pub fn new(within: Duration) -> Self {
        let beat = Beat { done: 0, since: Instant::now(), complaint: None };
        Self { last: Arc::new(Mutex::new(beat)), within }
    }

    /// Reads restic's output beside everything else, and keeps what is no news of its progress.
    pub fn follow(&self, output: Option<impl AsyncRead + Unpin + Send + 'static>) -> JoinHandle<String> {
        let pulse = self.clone();
        tokio::spawn(async move {
            let mut kept = String::new();
            each_line(output, |line| {
                if !pulse.hears_of_progress(line) && kept.len() < WORDS {
                    kept.extend([line, "\n"]);
                }
            })
            .await;
            kept
        })
    }

    /// Whether that was news of its progress.
    fn hears_of_progress(&self, line: &str) -> bool {
        let Ok(Said::Status { bytes_done, bytes_restored }) = serde_json::from_str(line) else { return false };
        let done = bytes_done + bytes_restored;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if done != last.done {
            *last = Beat { done, since: Instant::now(), complaint: None };
        }
        true
    }

    /// Notes what restic complains of, if that is that it tries something again.
    pub fn hears(&self, line: &str) {
        if let Some(why) = errors::tries_again(line) {
            self.last.lock().unwrap_or_else(PoisonError::into_inner).complaint = Some(why);
        }
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

/// Looks at every line of an output, until its end.
pub async fn each_line(output: Option<impl AsyncRead + Unpin>, mut look: impl FnMut(&str)) {
    let mut lines = output.map(|output| BufReader::new(output).split(b'\n'));
    while let Some(lines) = &mut lines
        && let Ok(Some(line)) = lines.next_segment().await
    {
        look(&String::from_utf8_lossy(&line));
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
