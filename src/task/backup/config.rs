//! The homeserver's configuration: Secrets and ConfigMaps, as they are mounted, and as manifests that `kubectl apply` takes.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Serialize};

use crate::{
    contract::{Result, TaskError, mounted},
    synapse::signing_keys,
};

/// What to take along.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigObjects {
    /// Directory with the homeserver's configuration: secrets/<name>/<key> and configmaps/<name>/<key>.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_dir: Option<PathBuf>,
    /// A Secret that must be there; may be given several times.
    #[arg(long = "config-secret", value_name = "NAME", requires = "config_dir")]
    pub config_secrets: Vec<String>,
    /// A ConfigMap that must be there; may be given several times.
    #[arg(long = "config-map", value_name = "NAME", requires = "config_dir")]
    pub config_maps: Vec<String>,
    /// The file with the homeserver's signing keys; only their ids are taken along.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_key_file: Option<PathBuf>,
}

impl ConfigObjects {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let directory = self.config_dir.iter().map(|directory| format!("--config-dir={}", directory.display()));
        let secrets = self.config_secrets.iter().map(|name| format!("--config-secret={name}"));
        let maps = self.config_maps.iter().map(|name| format!("--config-map={name}"));
        let key = self.signing_key_file.iter().map(|file| format!("--signing-key-file={}", file.display()));
        directory.chain(secrets).chain(maps).chain(key).collect()
    }

    /// Ids of the homeserver's signing keys, such as `ed25519:a_abcd`.
    ///
    /// # Errors
    /// Terminal: `ConfigMissing`; `ConfigUnreadable`, where it is no file of keys.
    pub fn signing_key_ids(&self) -> Result<Vec<String>> {
        let Some(file) = &self.signing_key_file else { return Ok(Vec::new()) };
        let text = fs::read_to_string(file).map_err(|error| {
            TaskError::terminal(
                "ConfigMissing",
                match error.kind() {
                    io::ErrorKind::NotFound => mounted::lacks(
                        file.parent().unwrap_or(file),
                        &file.file_name().unwrap_or_default().to_string_lossy(),
                        "the Synapse object's spec.signingKey",
                    ),
                    _ => format!("The key that the Synapse object's spec.signingKey names cannot be read: {error}."),
                },
            )
        })?;
        signing_keys::ids(&text).ok_or_else(|| {
            TaskError::terminal(
                "ConfigUnreadable",
                "The Synapse object's spec.signingKey names no file of signing keys: each line is `ed25519 a_abcd <key>`.",
            )
        })
    }

    /// The objects as YAML documents, without a namespace. `None`: there are none.
    ///
    /// # Errors
    /// Terminal, `ConfigMissing`, with the name of what is not there.
    pub fn manifests(&self) -> Result<Option<Vec<u8>>> {
        let Some(directory) = &self.config_dir else { return Ok(None) };
        let mut text = String::new();
        for name in &self.config_secrets {
            let data = keys(&directory.join("secrets").join(name), "Secret", "spec.config.secrets", name)?;
            let data = data.into_iter().map(|(key, value)| (key, ByteString(value))).collect();
            push(&mut text, &Secret { metadata: named(name), data: Some(data), ..Secret::default() });
        }
        for name in &self.config_maps {
            let path = directory.join("configmaps").join(name);
            let mut config_map = ConfigMap { metadata: named(name), ..ConfigMap::default() };
            for (key, value) in keys(&path, "ConfigMap", "spec.config.configMaps", name)? {
                match String::from_utf8(value) {
                    Ok(text) => drop(config_map.data.get_or_insert_default().insert(key, text)),
                    Err(binary) => {
                        let value = ByteString(binary.into_bytes());
                        config_map.binary_data.get_or_insert_default().insert(key, value);
                    }
                }
            }
            push(&mut text, &config_map);
        }
        Ok(Some(text.into_bytes()))
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn push(text: &mut String, object: &impl Serialize) {
    text.push_str("---\n");
    text.push_str(&serde_yaml_ng::to_string(object).expect("plain data"));
}

/// The keys of a mounted object. Kubernetes keeps links of its own beside them (`..data`); an object that is not there is
/// mounted as an empty directory.
fn keys(directory: &Path, kind: &str, field: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let read = || {
        let mut keys = BTreeMap::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let key = entry.file_name().to_string_lossy().into_owned();
            if !key.starts_with("..") {
                keys.insert(key, fs::read(entry.path())?);
            }
        }
        Ok::<_, io::Error>(keys)
    };
    match read() {
        Ok(keys) if !keys.is_empty() => Ok(keys),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TaskError::terminal(
            "ConfigUnreadable",
            format!("{kind} {name} of the Synapse object's {field} cannot be read: {error}."),
        )),
        _ => Err(TaskError::terminal(
            "ConfigMissing",
            format!(
                "The Synapse object's {field} names {kind} {name}, which does not exist or is empty: a backup without it \
                 would not bring the homeserver back."
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted() -> (tempfile::TempDir, ConfigObjects) {
        let directory = tempfile::tempdir().unwrap();
        let put = |path: &str, value: &[u8]| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        put("secrets/signing/signing.key", b"ed25519 a_1 base64\n");
        put("secrets/signing/..data/signing.key", b"Kubernetes' own");
        put("configmaps/synapse/homeserver.yaml", "server_name: example.org # größer\n".as_bytes());
        put("configmaps/synapse/logo", &[0xff, 0x00]);
        fs::create_dir_all(directory.path().join("secrets/missing")).unwrap();
        let objects = ConfigObjects {
            config_dir: Some(directory.path().into()),
            config_secrets: vec!["signing".to_owned()],
            config_maps: vec!["synapse".to_owned()],
            signing_key_file: None,
        };
        (directory, objects)
    }

    #[test]
    fn every_key_comes_back_byte_by_byte() {
        let (_directory, objects) = mounted();
        let text = objects.manifests().unwrap().unwrap();
        let documents: Vec<serde_yaml_ng::Value> = serde_yaml_ng::Deserializer::from_slice(&text)
            .map(|document| Deserialize::deserialize(document).unwrap())
            .collect();
        let secret: Secret = serde_yaml_ng::from_value(documents[0].clone()).unwrap();
        assert_eq!(secret.metadata.name.as_deref(), Some("signing"));
        assert_eq!(secret.data.unwrap().into_iter().collect::<Vec<_>>().len(), 1, "only the keys");
        let map: ConfigMap = serde_yaml_ng::from_value(documents[1].clone()).unwrap();
        assert_eq!(map.data.unwrap()["homeserver.yaml"], "server_name: example.org # größer\n");
        assert_eq!(map.binary_data.unwrap()["logo"].0, [0xff, 0x00]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_directory, mut objects) = mounted();
        for name in ["missing", "nowhere"] {
            objects.config_secrets = vec![name.to_owned()];
            let error = objects.manifests().unwrap_err();
            assert_eq!(error.reason, "ConfigMissing");
            assert!(error.message.contains("Secret") && error.message.contains(name), "{error}");
        }
        assert_eq!(ConfigObjects::default().manifests(), Ok(None));
    }
}
