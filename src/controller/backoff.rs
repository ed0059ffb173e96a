//! A pause for each object that failed: exponential, with jitter, forgotten at the first success.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
/// Short, because an object that fails may hold a homeserver's replicas.
const LONGEST: Duration = Duration::from_secs(60);

/// Failures in a row, by object.
#[derive(Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
    random: RandomState,
}

impl Backoff {
    /// The pause after one more failure.
    pub fn next(&self, key: &str) -> Duration {
        let mut failures = self.lock();
        let count = failures.entry(key.to_owned()).or_default();
        *count += 1;
        let full = FIRST.saturating_mul(2_u32.saturating_pow(*count - 1)).min(LONGEST);
        // Between half of it and all of it, so that many objects that failed together do not come back together.
        let share = self.random.hash_one((key, *count)) % 512;
        full / 2 + full / 2 * u32::try_from(share).unwrap_or(0) / 512
    }

    /// It went well.
    pub fn reset(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_minute_and_forgets_at_success() {
        let backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.next("a")).collect();
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2);
        assert!(pauses[19] <= LONGEST && pauses[19] >= LONGEST / 2);
        assert!(backoff.next("b") <= FIRST, "another object has its own count");
        backoff.reset("a");
        assert!(backoff.next("a") <= FIRST);
    }
}
