//! Whether what tables need can be made where a backup is to come back, found out before anything is made.

use std::path::Path;

use super::{fill::fetch_schema, server::Server};
use crate::{
    api::restore::Method,
    contract::Result,
    postgres::{Locale, programs::Programs},
    restic::Repository,
    task::{
        arguments::Connection,
        authentication::Whose,
        backup::{exclude, manifest::Dump},
        schema::{Choice, Contents, Facts, Place, facts, place_beside, template},
    },
};

/// A backup's schema, and where it is to come back.
pub(super) struct Wish<'a> {
    pub repository: &'a Repository,
    pub dump: &'a Dump,
    pub whose: Whose,
    pub programs: &'a Programs,
    pub scratch: &'a Path,
    pub connection: &'a Connection,
    pub method: Method,
    /// Of the new database.
    pub locale: &'a Locale,
}

impl Wish<'_> {
    /// Where a superuser can put what our role cannot make.
    pub fn place(&self, version: i32) -> Place {
        match self.method {
            Method::InPlace => Place::Here(self.connection.database.clone()),
            Method::Beside => place_beside(self.whose, self.locale, version),
        }
    }

    /// Looks. Returns what people should know: what will be left out, and who may get into the way.
    ///
    /// # Errors
    /// Terminal: `SuperuserNeeded`; `NotDatabaseOwner` where the role may not make the backup's schemas. What restic and PostgreSQL say.
    pub async fn check(&self, server: &mut Server) -> Result<Vec<String>> {
        let schema = fetch_schema(self.repository, self.dump, self.scratch).await?;
        let contents = Contents::of(self.programs, &server.target, &schema).await?;
        let (owner, place) = (server.owner.clone(), self.place(server.version()));
        let (facts, triggers) = match self.method {
            Method::InPlace => {
                let mut session = server.as_owner(self.connection, &self.connection.database)?.connect().await?;
                let mut facts = Facts::here(&mut session, &owner).await?;
                facts.try_collations(&mut session, &contents).await?;
                (facts, facts::event_triggers(&mut session).await?)
            }
            Method::Beside => beside(server, &contents, self.whose, self.locale).await?,
        };
        let choice = Choice::of(&contents, &facts);
        choice.is_possible(&place)?;
        if self.method == Method::InPlace {
            server.may_make_schemas(&contents.schemas(), &self.connection.database).await?;
        }
        let left_out = exclude::told(&self.dump.excluded)
            .into_iter()
            .chain(choice.told())
            .map(|line| format!("not restored: {line}"));
        let triggers = (!triggers.is_empty()).then(|| {
            format!(
                "event triggers fire on what a restore does in the database, and may refuse it: {}",
                triggers.join(", ")
            )
        });
        Ok(left_out.chain(triggers).collect())
    }
}

/// What a database beside the one that serves will have, and the event triggers that will fire there.
async fn beside(
    server: &mut Server,
    contents: &Contents,
    whose: Whose,
    locale: &Locale,
) -> Result<(Facts, Vec<String>)> {
    let owner = server.owner.clone();
    let Some(template) = template(server.session(), whose, locale).await? else {
        let mut facts = Facts::of_server(server.session(), &owner).await?;
        facts.try_collations(server.session(), contents).await?;
        return Ok((facts, Vec::new()));
    };
    let mut session = server.target.to(&template).connect().await?;
    let mut facts = Facts::of_server(&mut session, &owner).await?;
    facts.try_collations(&mut session, contents).await?;
    facts.present = facts::present(&mut session).await?;
    Ok((facts, facts::event_triggers(&mut session).await?))
}

/// What becomes of somebody else's dump of Synapse's database, beside the one that serves.
///
/// # Errors
/// Terminal, `SuperuserNeeded`. What PostgreSQL says.
pub(in crate::task) async fn possible(server: &mut Server, contents: &Contents, locale: &Locale) -> Result<Choice> {
    let (mut facts, _) = beside(server, contents, Whose::Synapse, locale).await?;
    // Whatever its role may do, what a superuser has made does not come out of a dump.
    facts.is_superuser = false;
    let choice = Choice::of(contents, &facts);
    choice.is_possible(&place_beside(Whose::Synapse, locale, server.version()))?;
    Ok(choice)
}

/// What the database will have that is made beside the one that serves.
///
/// # Errors
/// What PostgreSQL says.
pub(in crate::task) async fn facts_beside(server: &mut Server, locale: &Locale) -> Result<Facts> {
    beside(server, &Contents::default(), Whose::Synapse, locale).await.map(|(facts, _)| facts)
}
