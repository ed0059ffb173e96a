//! Whose snapshots are whose. A repository may be shared, also by two objects for one homeserver: a staging copy, or a cluster
//! that was built anew. What is another's is never touched, but told, until it is adopted.

use std::collections::BTreeMap;

use super::{
    Destination,
    list::Inventory,
    manifest::{ORIGIN, TAG, server_tag, tags_of},
};
use crate::{
    contract::{LISTED, OtherOrigin, Result},
    restic::{Listed, Repository},
};

/// All snapshots that concern a homeserver.
pub struct Listing {
    /// Of the object itself and of those that it adopts.
    pub ours: Vec<Listed>,
    /// Of others, of the same server name.
    others: Vec<Listed>,
}

impl Listing {
    /// Lists them.
    ///
    /// # Errors
    /// What restic answers.
    pub async fn read(repository: &Repository, destination: &Destination) -> Result<Self> {
        Ok(Self::new(repository.list(&wanted(destination)).await?, destination))
    }

    /// The same, where all of it can be read: for who takes something away.
    ///
    /// # Errors
    /// Transient, `RepositoryDamaged`. What restic answers.
    pub async fn read_all(repository: &Repository, destination: &Destination) -> Result<Self> {
        Ok(Self::new(repository.list_all(&wanted(destination)).await?, destination))
    }

    fn new(listed: Vec<Listed>, destination: &Destination) -> Self {
        let origins = destination.origins();
        let is_ours =
            |snapshot: &Listed| snapshot.tag(ORIGIN).is_some_and(|origin| origins.iter().any(|ours| ours == origin));
        let (ours, others) = listed.into_iter().partition(is_ours);
        Self { ours, others }
    }

    /// What the object itself has stored.
    pub fn own(&self, destination: &Destination) -> Vec<Listed> {
        let is_own = |snapshot: &&Listed| snapshot.tag(ORIGIN) == Some(&destination.origin);
        self.ours.iter().filter(is_own).cloned().collect()
    }

    /// The backups that count, and what is told of the others.
    pub fn inventory(&self) -> Inventory {
        let mut of_others: BTreeMap<&str, Vec<Listed>> = BTreeMap::new();
        for snapshot in &self.others {
            if let Some(origin) = snapshot.tag(ORIGIN) {
                of_others.entry(origin).or_default().push(snapshot.clone());
            }
        }
        let mut others: Vec<OtherOrigin> =
            of_others.into_iter().filter_map(|(origin, listed)| summary(origin, &listed)).collect();
        others.sort_by(|one, other| other.newest.cmp(&one.newest));
        others.truncate(LISTED);
        Inventory { others, ..Inventory::new(&self.ours) }
    }
}

fn wanted(destination: &Destination) -> Vec<Vec<String>> {
    let mut wanted = tags_of(&destination.origins());
    wanted.push(vec![TAG.to_owned(), server_tag(&destination.server_name)]);
    wanted
}

/// `None`: there is no whole backup.
fn summary(origin: &str, listed: &[Listed]) -> Option<OtherOrigin> {
    let backups = Inventory::new(listed).backups;
    let newest = backups.first()?.shown.taken_at.clone();
    Some(OtherOrigin { uid: origin.to_owned(), count: i64::try_from(backups.len()).unwrap_or(i64::MAX), newest })
}

#[cfg(test)]
mod tests {
    use super::{
        super::manifest::{format_tag, origin_tag},
        *,
    };
    use crate::task::place::Place;

    fn stored(id: &str, origin: &str, attempt: &str, more: &[&str]) -> Listed {
        let own = [format_tag(), origin_tag(origin), format!("attempt={attempt}")];
        let tags = own.into_iter().chain(more.iter().map(|tag| (*tag).to_owned())).collect();
        Listed { id: id.to_owned(), tags, stored_at: jiff::Timestamp::UNIX_EPOCH, bytes: 100, added: 7 }
    }

    fn backup(id: &str, origin: &str, taken_at: &str) -> [Listed; 2] {
        let attempt = format!("{origin}.{id}");
        let taken_at = format!("taken-at={taken_at}");
        [
            stored(&format!("{id}-rows"), origin, &attempt, &[]),
            stored(id, origin, &attempt, &["manifest", "parts=1", &taken_at]),
        ]
    }

    fn destination(adopted: &[&str]) -> Destination {
        Destination {
            place: Place {
                repository_dir: "/r".into(),
                repository: None,
                repository_claim: None,
                stalled_within: None,
            },
            init: false,
            server_name: "example.org".to_owned(),
            origin: "own".to_owned(),
            adopted: adopted.iter().map(|uid| (*uid).to_owned()).collect(),
        }
    }

    #[test]
    fn what_others_made_is_told_and_counts_once_it_is_adopted() {
        let all = || {
            let mut all = Vec::from(backup("mine", "own", "2016-11-22T02:00:00Z"));
            all.extend(backup("old-1", "lost", "2016-11-20T02:00:00Z"));
            all.extend(backup("old-2", "lost", "2016-11-21T02:00:00Z"));
            // Nothing whole.
            all.push(stored("half", "staging", "staging.1.1", &[]));
            all
        };
        let names =
            |inventory: &Inventory| inventory.backups.iter().map(|backup| backup.shown.id.clone()).collect::<Vec<_>>();
        let own = Listing::new(all(), &destination(&[])).inventory();
        assert_eq!(names(&own), ["mine"]);
        let [lost] = &own.others[..] else { panic!("{:?}", own.others) };
        assert_eq!(lost.to_string(), "2 of lost (the newest of 2016-11-21T02:00:00Z)");
        assert_eq!(own.listed().others, own.others);

        let adopting = destination(&["lost"]);
        let listing = Listing::new(all(), &adopting);
        assert_eq!(names(&listing.inventory()), ["mine", "old-2", "old-1"]);
        assert_eq!(listing.inventory().others, []);
        assert_eq!(listing.own(&adopting).len(), 2, "what it made itself is still known");
        assert_eq!(adopting.to_args()[2..], ["--origin=own", "--adopt=lost"]);
    }
}
