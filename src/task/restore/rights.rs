//! What the role that makes and renames databases may do, found out before anything is made.

use super::server::Server;
use crate::{
    contract::{Result, TaskError},
    postgres::{Explain, sessions},
    quote,
};

impl Server {
    /// Whether our role may write the mark of the database that it is in, and Synapse's make tables there.
    pub(super) async fn check_ownership(&mut self, database: &str) -> Result<()> {
        let (owns, is_member, may_make_tables): (bool, bool, bool) = sqlx::query_as(
            "SELECT pg_has_role(datdba, 'USAGE'), pg_has_role($1, 'USAGE'), has_schema_privilege($1, 'public', 'CREATE') \
             FROM pg_database WHERE datname = current_database()",
        )
        .bind(&self.owner)
        .fetch_one(&mut self.session.connection)
        .await
        .explain("looking who owns the database")?;
        let (name, role, owner) =
            (quote::ident(database), quote::ident(&self.target.credentials.username), quote::ident(&self.owner));
        let missing = match (owns, is_member, may_make_tables) {
            (true, true, true) => return Ok(()),
            (false, ..) => format!("ALTER DATABASE {name} OWNER TO {role}"),
            (true, false, _) => format!("GRANT {owner} TO {role}"),
            (true, true, false) => format!("GRANT CREATE ON SCHEMA public TO {owner}"),
        };
        Err(TaskError::terminal(
            "NotDatabaseOwner",
            format!(
                "A restore in place marks database {name} as unfinished, which takes its owner, and makes tables in it as role \
                 {owner}. As a superuser, in {name}: {missing};"
            ),
        ))
    }

    /// Whether Synapse's role may make these schemas in the database that it fills in place. Its own are dropped and made anew, and
    /// those of others stay.
    ///
    /// # Errors
    /// Terminal, `NotDatabaseOwner`, with what to grant. Those of PostgreSQL.
    pub(super) async fn may_make_schemas(&mut self, schemas: &[String], database: &str) -> Result<()> {
        let not_made: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM unnest($3::text[]) name WHERE NOT has_database_privilege($1, $2, 'CREATE') AND NOT EXISTS (\
                 SELECT FROM pg_namespace WHERE nspname = name AND NOT pg_has_role($1, nspowner, 'USAGE'))",
        )
        .bind(&self.owner)
        .bind(database)
        .bind(schemas)
        .fetch_all(&mut self.session.connection)
        .await
        .explain("looking who may make schemas in the database")?;
        if not_made.is_empty() {
            return Ok(());
        }
        let owner = quote::ident(&self.owner);
        Err(TaskError::terminal(
            "NotDatabaseOwner",
            format!(
                "The backup has schemas besides public ({}), and role {owner} may not make schemas in database {database}. Nothing was \
                 changed. As the database's owner or a superuser: GRANT CREATE ON DATABASE {} TO {owner};",
                not_made.join(", "),
                quote::ident(database)
            ),
        ))
    }

    /// Whether our role may rename a database: it takes its owner.
    ///
    /// # Errors
    /// Terminal, `NotDatabaseOwner`, with what to grant. Those of PostgreSQL.
    pub async fn may_rename(&mut self, database: &str) -> Result<()> {
        let owner: Option<String> = sqlx::query_scalar(
            "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1 AND NOT pg_has_role(datdba, 'USAGE')",
        )
        .bind(database)
        .fetch_optional(&mut self.session.connection)
        .await
        .explain("looking who owns the database")?;
        let Some(owner) = owner else { return Ok(()) };
        let (role, name) = (quote::ident(&self.target.credentials.username), quote::ident(database));
        Err(TaskError::terminal(
            "NotDatabaseOwner",
            format!(
                "Database {database} belongs to role {owner}, and only its owner may rename it. Nothing was changed. \
                 As a superuser: GRANT {} TO {role}; or ALTER DATABASE {name} OWNER TO {};",
                quote::ident(&owner),
                quote::ident(&self.owner)
            ),
        ))
    }

    /// Makes sure of the role's rights.
    ///
    /// # Errors
    /// Terminal, `CannotCreateDatabases`, with what to grant. What PostgreSQL says.
    pub async fn check_rights(&mut self) -> Result<()> {
        let (may_create, is_member): (bool, bool) = sqlx::query_as(
            "SELECT rolcreatedb OR rolsuper, rolsuper OR pg_has_role(oid, $1, 'USAGE') FROM pg_roles WHERE rolname = current_user",
        )
        .bind(&self.owner)
        .fetch_one(&mut self.session.connection)
        .await
        .explain("looking at the rights of the role that makes databases")?;
        let (role, owner) = (quote::ident(&self.target.credentials.username), quote::ident(&self.owner));
        let missing = match (may_create, is_member) {
            (true, true) => return Ok(()),
            (false, _) => format!("ALTER ROLE {role} CREATEDB"),
            (true, false) => format!("GRANT {owner} TO {role}"),
        };
        Err(TaskError::terminal(
            "CannotCreateDatabases",
            format!(
                "A restore makes a new database beside the old one and swaps their names; role {role} may not. Name a role \
                 that may in postgres.adminCredentials, or, as a superuser: {missing}; Without it, a database that nobody has \
                 used can be filled in place: create a new SynapseRestore with spec.database: {{method: InPlace}}."
            ),
        ))
    }

    /// Sessions in a database that our role may not end, and what to grant: a rename needs it empty.
    ///
    /// # Errors
    /// Terminal, `CannotEndSessions`. Those of PostgreSQL.
    pub async fn can_end_sessions(&mut self, database: &str) -> Result<()> {
        let left: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT {} FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid, (SELECT * FROM pg_roles WHERE rolname = current_user) me \
             WHERE a.datname = $1 AND a.pid <> pg_backend_pid() AND NOT me.rolsuper AND (r.rolsuper OR NOT (\
                 pg_has_role(me.oid, r.oid, 'USAGE') OR pg_has_role(me.oid, 'pg_signal_backend', 'USAGE')))",
            sessions::DESCRIBED
        )))
        .bind(database)
        .fetch_all(&mut self.session.connection)
        .await
        .explain("listing the sessions in a database")?;
        if left.is_empty() {
            return Ok(());
        }
        let role = quote::ident(&self.target.credentials.username);
        Err(TaskError::terminal(
            "CannotEndSessions",
            format!(
                "A database can only be renamed when nobody is connected to it, and role {role} may not end: {}. End them, \
                 or, as a superuser: GRANT pg_signal_backend TO {role}; (a superuser's sessions only a superuser can end).",
                left.join("; ")
            ),
        ))
    }
}
