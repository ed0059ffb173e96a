//! Somebody who asks a homeserver all the time, and remembers when there was an answer.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::support::get;

/// Between an answer, or none, and the next question.
const PAUSE: Duration = Duration::from_millis(50);
/// What anybody may ask, and what only a user is told: Synapse looks into its database for it.
const QUESTIONS: [&str; 2] = ["/_matrix/client/versions", "/_matrix/client/v3/joined_rooms"];

/// What a client without anything of its own asks for.
const EVERYTHING: &str = "/_matrix/client/v3/sync";

/// A client. Dropped: it asks no more.
pub struct Client {
    port: u16,
    token: String,
    answers: Arc<Mutex<Vec<Instant>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub fn new(port: u16, token: &str) -> Self {
        let (answers, is_over) = (Arc::<Mutex<Vec<Instant>>>::default(), Arc::<AtomicBool>::default());
        let (token, questions) = (token.to_owned(), QUESTIONS.map(|path| format!("{path}?access_token={token}")));
        let (noted, told) = (answers.clone(), is_over.clone());
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                if questions.iter().all(|question| is_answered(port, question)) {
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                }
                thread::sleep(PAUSE);
            }
        });
        Self { port, token, answers, is_over, thread: Some(thread) }
    }

    /// How long a user waits who begins with nothing. Where there is no answer in time, it is asked for again.
    pub fn takes_everything(&self) -> Duration {
        let began = Instant::now();
        while !is_answered(self.port, &format!("{EVERYTHING}?access_token={}", self.token)) {
            thread::sleep(PAUSE);
        }
        began.elapsed()
    }

    /// The first answer after a moment, if it has come.
    pub fn first_after(&self, moment: Instant) -> Option<Instant> {
        self.answers().iter().copied().find(|answer| *answer > moment)
    }

    /// From the last answer before a moment to the first one after it, which must have come.
    pub fn outage_at(&self, moment: Instant) -> Duration {
        let answers = self.answers();
        let (before, after) = answers.split_at(answers.partition_point(|answer| *answer <= moment));
        *after.first().expect("an answer after it") - *before.last().expect("an answer before it")
    }

    /// The longest that there was no answer between two moments at which there were some.
    pub fn longest_wait(&self, from: Instant, until: Instant) -> Duration {
        let answers = self.answers();
        let between: Vec<Instant> = answers.iter().copied().filter(|answer| (from..until).contains(answer)).collect();
        between.windows(2).map(|pair| pair[1] - pair[0]).max().expect("answers")
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn is_answered(port: u16, question: &str) -> bool {
    get(port, question).is_ok_and(|answer| answer.split_whitespace().nth(1) == Some("200"))
}
