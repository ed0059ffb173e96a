//! What a drill's superuser makes in the drill's database before the rows come: what tables need and a restore's role cannot make.
//!
//! For a restore a superuser does it in a template. A drill owns its server, which is thrown away, so it does it by itself: only what a
//! table needs, and only statements of the list of [`belongs`]. All else is made with the restore's own rights.

use std::collections::BTreeSet;

use crate::{
    contract::Result,
    postgres::{Explain, Session, Target},
    task::schema::{
        Choice, Contents, Facts,
        belongs::{self, Need},
        contents::Entry,
    },
};

/// Kinds of entries that come with the rows: what hangs on one cannot be made before.
const WITH_ROWS: [&str; 5] = ["TABLE", "SEQUENCE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"];

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// What the superuser has made, such as `extension bloom`.
    pub made: Vec<String>,
    /// What it could not make, and what PostgreSQL said.
    pub refused: Vec<String>,
}

/// Makes it in the database of `owner`. `superuser` is the drill's, in the same database.
///
/// # Errors
/// Those of PostgreSQL, except what it refuses to make.
pub async fn prepare(contents: &Contents, owner: &Target, superuser: &Target) -> Result<Prepared> {
    let mut by_owner = owner.connect().await?;
    let mut facts = Facts::here(&mut by_owner, &owner.credentials.username).await?;
    facts.try_collations(&mut by_owner, contents).await?;
    let choice = Choice::of(contents, &facts);
    let mut prepared = Prepared::default();
    let wanted = wanted(contents, &choice);
    if wanted.is_empty() {
        return Ok(prepared);
    }
    let mut by_superuser = superuser.connect().await?;
    for session in [&mut by_owner, &mut by_superuser] {
        session.execute("SET check_function_bodies = off").await.explain("preparing the drill's database")?;
    }
    for entry in contents.entries.iter().filter(|entry| wanted.contains(&entry.id)) {
        let is_superuser_s = choice.skipped.contains(&entry.id) && !facts.present.contains(&entry.shown());
        let done = match is_superuser_s {
            true => make(&mut by_superuser, entry, is_a_superuser_s).await,
            false => make(&mut by_owner, entry, |_| true).await,
        };
        match done {
            Ok(()) if is_superuser_s => prepared.made.push(entry.shown()),
            Ok(()) => {}
            Err(said) => prepared.refused.push(format!("{}: {said}", entry.shown())),
        }
    }
    Ok(prepared)
}

/// The numbers of the entries that tables need, with all that these need, unless it comes with the rows.
fn wanted(contents: &Contents, choice: &Choice) -> BTreeSet<u32> {
    let find = |id: u32| contents.entries.iter().find(|entry| entry.id == id);
    let mut wanted = BTreeSet::new();
    for needed in choice.needed.iter().filter(|needed| !needed.by.is_empty()) {
        let Some(root) = contents.entries.iter().find(|entry| entry.shown() == needed.of.what) else { continue };
        let (mut all, mut open) = (BTreeSet::new(), vec![root.id]);
        while let Some(id) = open.pop() {
            if all.insert(id) {
                open.extend(find(id).into_iter().flat_map(|entry| &entry.needs));
            }
        }
        if !all.iter().filter_map(|id| find(*id)).any(|entry| WITH_ROWS.contains(&entry.kind.as_str())) {
            wanted.extend(all);
        }
    }
    wanted
}

/// Whether the list says that only a superuser can run it.
fn is_a_superuser_s(needs: &[Need]) -> bool {
    needs.iter().any(|need| matches!(need, Need::Superuser(_) | Need::Extension(_)))
}

/// Makes an entry, as far as its statements may be run. The error is what PostgreSQL said.
async fn make(
    session: &mut Session,
    entry: &Entry,
    may_be_run: impl Fn(&[Need]) -> bool,
) -> std::result::Result<(), String> {
    for statement in entry.statements.iter().filter(|statement| may_be_run(&belongs::needs(statement))) {
        if let Err(error) = session.execute(&statement.text).await {
            let said = error.as_database_error().map(|error| error.message().to_owned());
            return Err(said.unwrap_or_else(|| error.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u32, needs: &[u32], kind: &str, name: &str, statement: &str) -> String {
        let needs: Vec<String> = needs.iter().map(u32::to_string).collect();
        let schema = if matches!(kind, "EXTENSION" | "SCHEMA") { "-" } else { "public" };
        format!(
            "--\n-- TOC entry {id} (class 1 OID 1)\n-- Dependencies: {}\n-- Name: {name}; Type: {kind}; Schema: {schema}; Owner: a\n\
             --\n\n{statement};\n\n",
            needs.join(" ")
        )
    }

    #[test]
    fn only_what_tables_need_is_made_with_what_it_needs_itself() {
        let dump = [
            entry(2, &[], "SCHEMA", "ext", "CREATE SCHEMA ext"),
            entry(3, &[2], "EXTENSION", "bloom", "CREATE EXTENSION IF NOT EXISTS bloom WITH SCHEMA ext"),
            entry(4, &[], "EXTENSION", "pg_stat_statements", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"),
            entry(5, &[], "TABLE", "users", "CREATE TABLE public.users (a integer)"),
            entry(6, &[5, 3], "INDEX", "blooms", "CREATE INDEX blooms ON public.users USING bloom (a)"),
            entry(
                7,
                &[5],
                "FUNCTION",
                "f(users)",
                "CREATE FUNCTION public.f(public.users) RETURNS int LANGUAGE c AS 'a'",
            ),
            entry(
                8,
                &[5, 7],
                "TRIGGER",
                "users t",
                "CREATE TRIGGER t AFTER INSERT ON public.users EXECUTE FUNCTION public.f()",
            ),
        ];
        let contents = Contents::read(dump.concat().as_bytes()).unwrap();
        let available = |name: &str| (name.to_owned(), crate::task::schema::facts::Available { by_the_owner: false });
        let extensions = ["bloom", "pg_stat_statements"].map(available).into();
        let choice = Choice::of(&contents, &Facts { extensions, ..Facts::default() });
        assert_eq!(choice.needed.len(), 2, "{choice:?}");
        assert_eq!(wanted(&contents, &choice), [2, 3].into());
    }
}
