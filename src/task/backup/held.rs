//! The databases that are backed up, held as they were at one moment.

use std::{sync::OnceLock, time::Duration};

use super::{
    coverage::{Covered, Seen},
    facts::Facts,
    manifest::{Dump, StoredParts},
    snapshot::{self, Snapshot},
};
use crate::{
    api::exclude::Exclude,
    contract::{Coverage, Result, TaskError},
    postgres::{Session, Target, lock, programs::Programs, sessions},
    synapse::database::SchemaVersion,
    task::{
        arguments::Connection,
        authentication::{AuthenticationService, Whose},
    },
};

/// A database that is held.
pub struct Held {
    pub whose: Whose,
    pub target: Target,
    pub programs: Programs,
    pub snapshot: Snapshot,
    facts: Facts,
    /// Known when its schema has been read.
    pub covered: OnceLock<Covered>,
}

/// All that are.
pub struct Databases {
    pub synapse: Held,
    pub schema_version: SchemaVersion,
    pub authentication: Option<HeldAuthentication>,
}

/// The database of the Matrix Authentication Service.
pub struct HeldAuthentication {
    pub held: Held,
    /// The newest migration of the service.
    pub migration: i64,
    /// No more lies between its moment and that of Synapse's database.
    pub apart: Duration,
}

/// A session that has the task's lock in one of the databases, and keeps watch.
pub struct Watch {
    whose: Whose,
    target: Target,
    session: Session,
}

impl Databases {
    /// All that can be refused, and the snapshots.
    ///
    /// # Errors
    /// What PostgreSQL says, and of which database; those of [`Facts`].
    pub async fn hold(
        connection: &Connection,
        service: Option<&AuthenticationService>,
        server_name: &str,
        exclude: &Exclude,
    ) -> Result<(Self, Vec<Watch>)> {
        let service = service.map(|service| (Whose::AuthenticationService, service.connection(connection)));
        let mut watches = Vec::new();
        for (whose, connection) in [(Whose::Synapse, connection.clone())].into_iter().chain(service) {
            watches.push(Watch::begin(whose, &connection).await.map_err(|error| whose.tell(error))?);
        }
        let excluded_of = |whose: Whose| if whose.is_synapse() { exclude.clone() } else { Exclude::default() };
        let of: Vec<(Whose, &Target, Exclude)> =
            watches.iter().map(|watch| (watch.whose, &watch.target, excluded_of(watch.whose))).collect();
        let (snapshots, apart) = Snapshot::take(&of).await?;
        let mut snapshots = snapshots.into_iter().zip(&watches);

        let (mut snapshot, watch) = snapshots.next().expect("Synapse's is always there");
        let (facts, schema_version) = Facts::of_synapse(&mut snapshot.session, server_name).await?;
        snapshot.excluded.check(&mut snapshot.session, facts.schema.as_deref()).await?;
        let synapse = Held::new(watch, snapshot, facts).await?;
        let authentication = match snapshots.next() {
            None => None,
            Some((snapshot, watch)) => {
                let held = hold_authentication(snapshot, watch, apart).await;
                Some(held.map_err(|error| watch.whose.tell(error))?)
            }
        };
        Ok((Self { synapse, schema_version, authentication }, watches))
    }

    pub fn all(&self) -> impl Iterator<Item = &Held> {
        [&self.synapse].into_iter().chain(self.authentication.as_ref().map(|service| &service.held))
    }

    /// What a restore of them will not bring back.
    pub fn coverage(&self) -> Coverage {
        let all =
            self.all().filter_map(|held| Some(held.covered.get()?.told(held.seen(), held.facts.postgres_version)));
        all.fold(Coverage::default(), Coverage::and)
    }

    /// What is worth a look of what is left out by wish.
    pub fn about_excluded(&self) -> Vec<String> {
        let Held { snapshot, facts, .. } = &self.synapse;
        snapshot.excluded.warnings(facts.schema.as_deref(), self.schema_version.version)
    }

    /// The transactions are still open, so the snapshots held to the end.
    ///
    /// # Errors
    /// Transient: a session is gone, and the locks with it.
    pub async fn still_held(&mut self) -> Result<()> {
        let service = self.authentication.as_mut().map(|service| &mut service.held);
        for Held { whose, snapshot, .. } in [&mut self.synapse].into_iter().chain(service) {
            snapshot.still_held().await.map_err(|error| whose.tell(error))?;
        }
        Ok(())
    }
}

async fn hold_authentication(mut snapshot: Snapshot, watch: &Watch, apart: Duration) -> Result<HeldAuthentication> {
    let (facts, migration) = Facts::of_authentication_service(&mut snapshot.session).await?;
    let held = Held::new(watch, snapshot, facts).await?;
    Ok(HeldAuthentication { held, migration, apart })
}

impl Held {
    async fn new(watch: &Watch, snapshot: Snapshot, facts: Facts) -> Result<Self> {
        let programs = Programs::of(facts.postgres_version).await?;
        let (whose, target) = (watch.whose, watch.target.clone());
        Ok(Self { whose, target, programs, snapshot, facts, covered: OnceLock::new() })
    }

    pub fn seen(&self) -> Seen<'_> {
        Seen {
            whose: self.whose,
            target: &self.target,
            programs: &self.programs,
            locale: &self.facts.locale,
            excluded: &self.snapshot.excluded,
        }
    }

    /// For the manifest.
    pub fn dump(&self, parts: StoredParts) -> Dump {
        let Facts { postgres_version, locale, bytes, schema } = &self.facts;
        let Covered { not_restored, superuser_needed, unfilled_views, search_path } =
            self.covered.get().cloned().unwrap_or_default();
        Dump {
            postgres_version: *postgres_version,
            locale: locale.clone(),
            database_bytes: *bytes,
            parts,
            left_out: self.snapshot.left_out.clone(),
            excluded: self.snapshot.excluded.shown(),
            not_restored,
            superuser_needed,
            unfilled_views,
            search_path,
            schema: schema.clone(),
        }
    }
}

impl Watch {
    async fn begin(whose: Whose, connection: &Connection) -> Result<Self> {
        let target = connection.target()?;
        let mut session = target.connect().await?;
        sessions::end_earlier(&mut session, &target.application).await?;
        lock::acquire_shared(&mut session).await?;
        Ok(Self { whose, target, session })
    }

    /// Ends when somebody waits for a lock that the backup holds here, and says who.
    pub async fn until_somebody_waits(&mut self) -> TaskError {
        let why = snapshot::until_somebody_waits(&mut self.session, &self.target.application).await;
        self.whose.tell(why)
    }

    /// Ends the snapshot's session and every `pg_dump`: at once, for one of these may itself be waiting behind who waits for
    /// us.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn let_go(&mut self) -> Result<()> {
        sessions::end_earlier(&mut self.session, &self.target.application).await.map(drop)
    }
}
