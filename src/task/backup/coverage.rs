//! What a restore of a backup does not bring back, from the schema of the database and from its catalogs. Preflight looks, and so
//! does the backup itself.

use std::path::Path;

use tokio::process::Command;

use super::{
    exclude::{self, Excluded},
    manifest::SCHEMA_FILE,
    stream::output_of,
};
use crate::{
    contract::{Coverage, TaskError},
    postgres::{Locale, Result, Target, programs::Programs},
    task::{
        authentication::Whose,
        schema::{Choice, Contents, Facts, Needed, NotRestored, choice, facts, place_beside, template, told, unsaved},
    },
};

/// A database that is looked at.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub whose: Whose,
    pub target: &'a Target,
    pub programs: &'a Programs,
    pub locale: &'a Locale,
    /// What is left out of its backup.
    pub excluded: &'a Excluded,
}

/// The program that writes the schema of a database.
///
/// # Errors
/// Those of [`Programs::command`].
pub fn schema(programs: &Programs, target: &Target, excluded: &Excluded) -> Result<Command> {
    let mut command = programs.command("pg_dump", target)?;
    // By itself it waits for ever, whatever its session's settings say: who holds the lock may wait for us.
    command.args(["--lock-wait-timeout=10s", "--format=custom", "--schema-only"]).args(excluded.to_args());
    Ok(command)
}

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
    pub async fn look(of: Seen<'_>, schema: &[u8], scratch: &Path) -> Result<Self> {
        let path = scratch.join(format!("{:?}-{SCHEMA_FILE}", of.whose));
        std::fs::write(&path, schema).map_err(|error| TaskError::no_scratch_space(&error))?;
        let contents = Contents::of(of.programs, of.target, &path).await?;
        // That of the snapshot is not to be bothered.
        let mut session = of.target.connect().await?;
        let mut facts = Facts::of_server(&mut session, &of.target.credentials.username).await?;
        // What a superuser has prepared for a restore. Who may not look there is told of it once more.
        if let Some(template) = template(&mut session, of.whose, of.locale).await?
            && let Ok(mut there) = of.target.to(&template).connect().await
        {
            facts.present = facts::present(&mut there).await?;
        }
        let choice = Choice::of(&contents, &facts);
        let excluded = of.excluded.shown();
        let mut not_restored = choice.left_out;
        for one in unsaved::unsaved(&mut session).await? {
            let is_known = |what: &String| *what == one.what;
            if !not_restored.iter().any(|known| is_known(&known.what)) && !excluded.iter().any(is_known) {
                not_restored.push(one);
            }
        }
        not_restored.extend(choice.moved);
        let mut unfilled_views = unsaved::unfilled_views(&mut session).await?;
        unfilled_views.retain(|view| !excluded.contains(&format!("materialized view {view}")));
        Ok(Self {
            not_restored,
            superuser_needed: choice.needed,
            unfilled_views,
            search_path: Some(unsaved::search_path(&mut session).await?),
        })
    }

    /// Looks before there is a backup: whether it says the same, only the schema decides.
    ///
    /// # Errors
    /// Those of PostgreSQL, `pg_dump` and `pg_restore`.
    pub async fn ahead(of: Seen<'_>, version: i32, scratch: &Path) -> Result<Coverage> {
        let schema = output_of(schema(of.programs, of.target, of.excluded)?, "pg_dump").await?;
        Ok(Self::look(of, &schema, scratch).await?.told(of, version))
    }

    /// The same, for people. `version` is that of the server.
    pub fn told(&self, Seen { whose, locale, excluded, .. }: Seen<'_>, version: i32) -> Coverage {
        let place = place_beside(whose, locale, version);
        let of = |line: String| {
            if whose.is_synapse() { line } else { format!("Matrix Authentication Service: {line}") }
        };
        let excluded = exclude::told(&excluded.shown());
        Coverage {
            not_restored: excluded.into_iter().chain(told(&self.not_restored)).map(of).collect(),
            superuser_needed: choice::refusal(&self.superuser_needed, &place).map(of).into_iter().collect(),
        }
    }
}
