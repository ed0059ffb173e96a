//! What a Job needs to reach a repository.

use crate::{
    api::{
        mounts::{Mount, Source},
        repository::Repository,
    },
    contract::pod::{REPOSITORY, REPOSITORY_VOLUME},
    task::place::Place,
};

/// restic keeps an index of the repository in memory: about 1 GiB for each 4 TiB of data (measured by its authors, restic
/// manual, "Tuning backup parameters").
pub const MEMORY_LIMIT: &str = "1Gi";

/// Where a task finds it. On a volume its Secret does not say it.
pub fn place(repository: &Repository) -> Place {
    let location = repository.volume.as_ref().map(|volume| format!("{REPOSITORY_VOLUME}/{}", volume.path));
    let repository_claim = repository.volume.as_ref().map(|volume| volume.claim_name.clone());
    Place { repository_dir: REPOSITORY.into(), repository: location, repository_claim, stalled_within: None }
}

/// What a task needs to reach the repository.
pub fn mounts(repository: &Repository) -> Vec<Mount> {
    let password = repository.password_secret.as_ref().map(|password| Mount {
        path: REPOSITORY.to_owned(),
        source: Source::SecretKey {
            name: password.name.clone(),
            key: password.key.clone(),
            file: "RESTIC_PASSWORD".to_owned(),
        },
    });
    let secret = repository.secret_name.iter().map(|name| Mount::secret(REPOSITORY, name));
    let volume = repository.volume.iter().map(|volume| Mount::writable_claim(REPOSITORY_VOLUME, &volume.claim_name));
    secret.chain(password).chain(volume).collect()
}
