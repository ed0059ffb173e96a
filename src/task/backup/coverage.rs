//! What a restore of a backup will not bring back, found out while it is made: from its schema, and from the catalogs.

use std::path::Path;

use super::{held::Held, manifest::SCHEMA_FILE};
use crate::{
    postgres::Result,
    task::{
        report::{Coverage, TaskError},
        restore::{place_beside, template},
        schema::{Choice, Contents, Facts, Needed, NotRestored, choice, facts, told, unsaved},
    },
};

/// What is known of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    pub not_restored: Vec<NotRestored>,
    pub superuser_needed: Vec<Needed>,
    pub unfilled_views: Vec<String>,
    pub search_path: Option<String>,
}

impl Covered {
    /// Looks, as a restore onto the same server would. `schema`: what `pg_dump` wrote.
    ///
    /// # Errors
    /// Those of PostgreSQL and of `pg_restore`.
    pub async fn look(held: &Held, schema: &[u8], scratch: &Path) -> Result<Self> {
        let path = scratch.join(format!("{:?}-{SCHEMA_FILE}", held.whose));
        std::fs::write(&path, schema).map_err(|error| TaskError::no_scratch_space(&error))?;
        let contents = Contents::of(&held.programs, &held.target, &path).await?;
        // That of the snapshot is not to be bothered.
        let mut session = held.target.connect().await?;
        let mut facts = Facts::of_server(&mut session, &held.target.credentials.username).await?;
        // What a superuser has prepared for a restore. Who may not look there is told of it once more.
        if let Some(template) = template(&mut session, held.whose, held.locale()).await?
            && let Ok(mut there) = held.target.to(&template).connect().await
        {
            facts.present = facts::present(&mut there).await?;
        }
        let choice = Choice::of(&contents, &facts);
        let mut not_restored = choice.left_out;
        for one in unsaved::unsaved(&mut session).await? {
            if !not_restored.iter().any(|known| known.what == one.what) {
                not_restored.push(one);
            }
        }
        not_restored.extend(choice.moved);
        Ok(Self {
            not_restored,
            superuser_needed: choice.needed,
            unfilled_views: unsaved::unfilled_views(&mut session).await?,
            search_path: Some(unsaved::search_path(&mut session).await?),
        })
    }

    /// The same, for people.
    pub fn told(&self, held: &Held) -> Coverage {
        let place = place_beside(held.whose, held.locale(), held.snapshot.session.version);
        let of = |line: String| {
            if held.whose.is_synapse() { line } else { format!("Matrix Authentication Service: {line}") }
        };
        Coverage {
            not_restored: told(&self.not_restored).into_iter().map(of).collect(),
            superuser_needed: choice::refusal(&self.superuser_needed, &place).map(of).into_iter().collect(),
        }
    }
}
