//! One watch for everyone who wants to hear it: each watch of its own would cost memory here and work on the API server.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{
    Stream, StreamExt,
    channel::mpsc::{UnboundedSender, unbounded},
};

/// Tells each listener what it is told.
pub struct Fan<T>(Arc<Mutex<Vec<UnboundedSender<T>>>>);

impl<T> Clone for Fan<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Fan<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Fan<T> {
    /// What is told from now on.
    pub fn listen(&self) -> impl Stream<Item = T> + Send + use<T>
    where
        T: Send,
    {
        let (sender, receiver) = unbounded();
        self.listeners().push(sender);
        receiver
    }

    /// Who does not listen any more is forgotten.
    pub fn tell(&self, what: &T) {
        self.listeners().retain(|listener| listener.unbounded_send(what.clone()).is_ok());
    }

    /// Tells all that a stream brings, to its end.
    pub async fn tell_all(&self, stream: impl Stream<Item = T>) {
        let mut stream = std::pin::pin!(stream);
        while let Some(item) = stream.next().await {
            self.tell(&item);
        }
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<UnboundedSender<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_hears_everything_from_their_first_moment_on() {
        let fan = Fan::default();
        let first = fan.listen();
        fan.tell(&1);
        let second = fan.listen();
        drop(fan.listen());
        fan.tell_all(futures::stream::iter([2, 3])).await;
        drop(fan);
        assert_eq!(first.collect::<Vec<_>>().await, [1, 2, 3]);
        assert_eq!(second.collect::<Vec<_>>().await, [2, 3]);
    }
}
