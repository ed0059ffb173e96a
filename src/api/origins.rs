//! Whose backups count as an object's own. Each object has its UID on what it stores; one that is made again, as after the loss
//! of a cluster, has another.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::{
    ADOPT_ORIGINS, SynapseBackup,
    conditions::{Conditions, Type},
};
use crate::contract::OtherOrigin;

impl SynapseBackup {
    /// The origins that the annotation adopts. What is no UID is left out: it stays among the others.
    pub fn adopted_origins(&self) -> Vec<String> {
        let own = self.uid();
        let listed = self.annotations().get(ADOPT_ORIGINS).map(String::as_str).unwrap_or_default();
        let mut adopted: Vec<String> = Vec::new();
        for uid in listed.split(',').map(str::trim).filter(|uid| is_origin(uid)) {
            if own.as_deref() != Some(uid) && !adopted.iter().any(|known| known == uid) {
                adopted.push(uid.to_owned());
            }
        }
        adopted
    }

    /// Itself, as one that may adopt.
    pub fn adopter(&self) -> Adopter {
        Adopter {
            namespace: self.namespace().unwrap_or_default(),
            name: self.name_any(),
            adopted: self.adopted_origins(),
        }
    }

    /// Its own UID and those that it adopts.
    pub fn origins(&self) -> Vec<String> {
        self.uid().into_iter().chain(self.adopted_origins()).collect()
    }
}

/// Letters, digits and `-`: restic takes a comma for the end of a tag.
pub fn is_origin(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|character| character.is_ascii_alphanumeric() || character == '-')
}

/// The object whose repository it is, for the command that adopts others.
#[derive(Clone, Debug, Default)]
pub struct Adopter {
    pub namespace: String,
    pub name: String,
    /// Whom it has adopted already: the annotation has all of them.
    pub adopted: Vec<String>,
}

/// Tells of backups of others, which are not touched.
pub(super) fn tell(
    conditions: &mut Vec<Condition>,
    others: &[OtherOrigin],
    adopter: &Adopter,
    generation: i64,
    now: Timestamp,
) {
    let mut conditions = Conditions::new(conditions, generation, now);
    if others.is_empty() {
        conditions.clear(Type::OtherOrigins);
        return;
    }
    let listed: Vec<String> = others.iter().map(ToString::to_string).collect();
    let adopted = adopter.adopted.iter().map(String::as_str);
    let uids: Vec<&str> = adopted.chain(others.iter().map(|other| other.uid.as_str())).collect();
    let Adopter { namespace, name, .. } = adopter;
    let message = format!(
        "the repository has backups of this homeserver that other objects made: {}. Nothing is done to them. Where those objects \
         are gone for good, make the backups this object's own: kubectl -n {namespace} annotate synapsebackup {name} --overwrite \
         {ADOPT_ORIGINS}={}",
        listed.join(", "),
        uids.join(",")
    );
    conditions.set(Type::OtherOrigins, true, "OtherOrigins", &message);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::{SynapseBackupSpec, conditions};

    #[test]
    fn an_annotation_adopts_others_once_and_never_itself() {
        let spec: SynapseBackupSpec =
            serde_yaml_ng::from_str("{synapseRef: {name: a}, repository: {secretName: s3}}").unwrap();
        let mut backup = SynapseBackup::new("nightly", spec);
        backup.metadata.uid = Some("own".to_owned());
        assert_eq!(backup.origins(), ["own"]);
        backup.annotations_mut().insert(ADOPT_ORIGINS.to_owned(), "a-1, own,b2,, a-1,what is this".to_owned());
        assert_eq!(backup.origins(), ["own", "a-1", "b2"]);
    }

    #[test]
    fn others_are_told_until_there_are_none() {
        let other = OtherOrigin { uid: "u-1".to_owned(), count: 3, newest: Some(Time(Timestamp::UNIX_EPOCH)) };
        let mut told = Vec::new();
        let adopter =
            Adopter { namespace: "matrix".to_owned(), name: "nightly".to_owned(), adopted: vec!["u-0".to_owned()] };
        tell(&mut told, &[other], &adopter, 1, Timestamp::UNIX_EPOCH);
        let condition = conditions::find(&told, Type::OtherOrigins).expect("it is told");
        for words in [
            "3 of u-1 (the newest of 1970-01-01T00:00:00Z)",
            "kubectl -n matrix annotate synapsebackup nightly --overwrite synapse-keeper.dev/adopt-origins=u-0,u-1",
        ] {
            assert!(condition.message.contains(words), "{condition:?}");
        }
        tell(&mut told, &[], &adopter, 1, Timestamp::UNIX_EPOCH);
        assert_eq!(told, []);
    }
}
