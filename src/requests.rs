//! Requests to which "it is not there" is an answer like any other, and which are not waited for for ever.

use std::{fmt::Debug, time::Duration};

use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{api::MANAGER, error::Error};

/// How every create and every replace goes out: under our name, which `managedFields` show. Without it the API server
/// calls the writer unknown.
pub fn in_our_name() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() }
}

/// What requests answer, if they do within the time.
///
/// # Errors
/// Theirs, or that it took too long.
pub async fn in_time<T>(limit: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(limit, answer).await.unwrap_or(Err(Error::TimedOut))
}

/// Reads an object of one of our kinds. `None`: it is gone, or its whole kind is. Of a kind whose CRD was deleted the API
/// server says no more than a bare `404 page not found`, which kube's own `get_opt` takes for an error.
///
/// # Errors
/// Any other answer of the API server.
pub async fn find<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, name: &str) -> kube::Result<Option<K>> {
    match api.get(name).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_there(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The object is not there, or its whole kind.
pub fn is_not_there(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Creates an object, if there is none of its name: somebody was faster, or we were before we were killed. The next look tells.
///
/// # Errors
/// Any other answer of the API server.
pub async fn create_once<K: Clone + DeserializeOwned + Debug + Serialize>(
    api: &Api<K>,
    object: &K,
) -> kube::Result<()> {
    match api.create(&in_our_name(), object).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

/// Deletes an object, if it is there.
///
/// # Errors
/// Any other answer of the API server; 409 if it is not as the preconditions want it.
pub async fn remove<K: Clone + DeserializeOwned + Debug>(
    api: &Api<K>,
    name: &str,
    params: &DeleteParams,
) -> kube::Result<()> {
    match api.delete(name, params).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}
