//! What must be true of a restored backup beyond its rows.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::Deserialize;

use crate::{
    contract::{Result, TaskError},
    postgres::{Explain, Session, Target, relations},
    restic::Repository,
    synapse::{schema, sequences, signing_keys},
    task::{
        backup::manifest::{CONFIG_FILE, Manifest},
        restore::Source,
    },
    words::{counted, counted_are},
};

/// It is the backup of this homeserver, and of this object where one is named.
///
/// # Errors
/// Terminal, `ServerNameDiffers`.
pub fn is_of(manifest: &Manifest, source: &Source) -> Result<()> {
    let Manifest { server_name, origin, .. } = manifest;
    if *server_name == source.server_name && (source.origins.is_empty() || source.origins.contains(origin)) {
        return Ok(());
    }
    Err(TaskError::terminal(
        "ServerNameDiffers",
        format!(
            "The backup is one of {server_name} by {origin}, not of {}{}: what was stored under its name is something \
             else.",
            source.server_name,
            if source.origins.is_empty() { String::new() } else { format!(" by {}", source.origins.join(" or ")) }
        ),
    ))
}

/// All of them; says what was seen.
///
/// # Errors
/// Terminal: `NoSynapseSchema`, `DatabaseSplit`, `TablesMissing`, `SequenceBehind`, `SigningKeyDiffers`, `ConfigUnreadable`. What
/// PostgreSQL and restic say.
pub async fn all(target: &Target, repository: &Repository, manifest: &Manifest) -> Result<String> {
    // Whoever connects from here on finds Synapse's tables, as after a restore.
    schema::lead_to(target, manifest.database.schema.as_deref()).await?;
    let mut session = target.connect().await?;
    is_a_whole_homeserver(&mut session).await?;
    session.execute("SET statement_timeout = 0").await.explain("setting the statement's time")?;
    let sequences = sequences_are_ahead(&mut session).await?;
    let key = signing_key_fits(&mut session, manifest).await?;
    let config = config_is_readable(repository, manifest).await?;
    let sequences = counted_are(sequences, "sequence", "sequences");
    Ok(format!("{sequences} ahead of their tables, no one-time key is there, {key}, {config}"))
}

async fn is_a_whole_homeserver(session: &mut Session) -> Result<()> {
    let tables = relations::tables(session).await?;
    match schema::Missing::of(&tables.iter().map(|table| table.name.as_str()).collect()) {
        None => Ok(()),
        Some(missing) => Err(missing.refused("In the backup", "It would not bring a homeserver back.")),
    }
}

async fn sequences_are_ahead(session: &mut Session) -> Result<usize> {
    let checked = sequences::check(session).await?;
    if let Some(error) = checked.errors.into_iter().next() {
        return Err(error);
    }
    if checked.inconsistent.is_empty() {
        return Ok(checked.sequences);
    }
    Err(TaskError::terminal(
        "SequenceBehind",
        format!(
            "{}. Synapse would not start on this database, or hand numbers out twice. Is it so in the one that serves (condition \
             SequencesConsistent of the Synapse object)?",
            checked.inconsistent.join("; ")
        ),
    ))
}

/// The homeserver would go on signing with a key that others know it by.
async fn signing_key_fits(session: &mut Session, manifest: &Manifest) -> Result<&'static str> {
    let kept = &manifest.signing_key_ids;
    if kept.is_empty() {
        return Ok("which signing key belongs to it is not on record (spec.signingKey of the Synapse object)");
    }
    let used = signing_keys::of_newest_event(session, &manifest.server_name).await?;
    if used.is_empty() {
        return Ok("no event is there to compare the signing key with");
    }
    if used.iter().any(|id| kept.contains(id)) {
        return Ok("the signing key is that of the newest event");
    }
    Err(TaskError::terminal(
        "SigningKeyDiffers",
        format!(
            "The newest event of {} is signed with {}, and spec.signingKey of the Synapse object has {}: to the rest of the \
             federation it would be another homeserver. Was the key changed and nothing sent since, or is it another file?",
            manifest.server_name,
            used.join(", "),
            kept.join(", ")
        ),
    ))
}

#[derive(Deserialize)]
#[serde(tag = "kind")]
enum Object {
    Secret(Secret),
    ConfigMap(ConfigMap),
}

/// Every document is a Secret or a ConfigMap with something in it.
async fn config_is_readable(repository: &Repository, manifest: &Manifest) -> Result<String> {
    let Some(part) = manifest.database.parts.get(CONFIG_FILE) else {
        return Ok("it holds no configuration".to_owned());
    };
    let text = repository.fetch(&part.snapshot, CONFIG_FILE).await?;
    // Never what it could not read: it is full of secrets.
    let unreadable = || {
        let message = "The configuration in the backup cannot be read: it is not what was stored.";
        TaskError::terminal("ConfigUnreadable", message)
    };
    let mut objects = 0;
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let is_filled = match Object::deserialize(document).map_err(|_| unreadable())? {
            Object::Secret(secret) => secret.data.is_some_and(|data| !data.is_empty()),
            Object::ConfigMap(map) => map.data.is_some() || map.binary_data.is_some(),
        };
        if !is_filled {
            return Err(unreadable());
        }
        objects += 1;
    }
    Ok(format!("{} of the configuration can be read", counted(objects, "object", "objects")))
}
