//! What a database has beside its contents: rights, settings, limits. `pg_dump` leaves it out.
//!
//! Not taken over, on purpose: the owner (the new database belongs to Synapse's role), `ALLOW_CONNECTIONS` (the restore could not
//! have looked into the old one without), and the version of the collation (the indexes are new).

use super::server::Server;
use crate::{
    contract::{Result, TaskError},
    postgres::{Explain, Session},
    quote,
    task::arguments::Connection,
};

/// The values of these are lists of names, and stand in the catalog as SQL has them (`variable_is_guc_list_quote` in
/// PostgreSQL's `src/bin/pg_dump/dumputils.c`).
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Statements that give database `$2` the rights and the limits that database `$1` has. The limit comes last: it may be 0.
const OF_DATABASE: &str = "\
    SELECT statement FROM (\
        SELECT 1 AS place, format('REVOKE ALL ON DATABASE %I FROM PUBLIC', $2::text) AS statement \
            FROM pg_database WHERE datname = $1 AND datacl IS NOT NULL \
        UNION ALL SELECT 2, format('GRANT %s ON DATABASE %I TO %s%s', a.privilege_type, $2::text, \
                CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, \
                CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) \
            FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = $1 \
        UNION ALL SELECT 3, format('ALTER DATABASE %I IS_TEMPLATE true', $2::text) \
            FROM pg_database WHERE datname = $1 AND datistemplate \
        UNION ALL SELECT 4, format('ALTER DATABASE %I CONNECTION LIMIT %s', $2::text, datconnlimit) \
            FROM pg_database WHERE datname = $1 AND datconnlimit >= 0) statements \
    ORDER BY place, statement";

/// Settings of a database, and of roles in it.
const SETTINGS: &str = "\
    SELECT CASE WHEN s.setrole = 0 THEN NULL ELSE pg_get_userbyid(s.setrole)::text END, \
        split_part(c, '=', 1), substr(c, strpos(c, '=') + 1) \
    FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c WHERE d.datname = $1 \
    ORDER BY 1 NULLS FIRST, 2";

impl Server {
    /// Gives a database the settings, rights and limits that another has. What Synapse's role may set for itself it sets, for
    /// nobody but a superuser may set it for another role. What our role may not give is told.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn copy_settings(&mut self, connection: &Connection, from: &str, to: &str) -> Result<Vec<String>> {
        const DOING: &str = "reading the settings of a database";
        let settings: Vec<(Option<String>, String, String)> =
            sqlx::query_as(SETTINGS).bind(from).fetch_all(&mut self.session.connection).await.explain(DOING)?;
        let of_database: Vec<String> = sqlx::query_scalar(OF_DATABASE)
            .bind(from)
            .bind(to)
            .fetch_all(&mut self.session.connection)
            .await
            .explain(DOING)?;
        let mut refused = Vec::new();
        // Not longer than for these: who is in a database keeps it from being renamed.
        let mut owner = self.as_owner(connection, to)?.connect().await?;
        for (role, name, value) in settings {
            let statement = setting(to, role.as_deref(), &name, &value);
            let session = if role.as_deref() == Some(self.owner.as_str()) { &mut owner } else { &mut self.session };
            refused.extend(attempt(session, statement).await);
        }
        drop(owner);
        for statement in of_database {
            refused.extend(attempt(&mut self.session, statement).await);
        }
        Ok(refused)
    }

    /// The tablespace of a database, if it is not the server's default one and the database is there. Ours may be made in it.
    ///
    /// # Errors
    /// Terminal, `TablespaceDenied`, with what to grant. Those of PostgreSQL.
    pub async fn tablespace_of(&mut self, database: &str) -> Result<Option<String>> {
        let found: Option<(String, bool)> = sqlx::query_as(
            "SELECT t.spcname::text, has_tablespace_privilege(t.oid, 'CREATE') FROM pg_database d \
             JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = $1 AND t.spcname <> 'pg_default'",
        )
        .bind(database)
        .fetch_optional(&mut self.session.connection)
        .await
        .explain("looking for the tablespace of a database")?;
        let Some((tablespace, may_create)) = found else { return Ok(None) };
        if may_create {
            return Ok(Some(tablespace));
        }
        let role = quote::ident(&self.target.credentials.username);
        Err(TaskError::terminal(
            "TablespaceDenied",
            format!(
                "Database {database} is in tablespace {tablespace}, and role {role} may not make the new one there. Nothing was \
                 changed. As a superuser: GRANT CREATE ON TABLESPACE {} TO {role};",
                quote::ident(&tablespace)
            ),
        ))
    }
}

/// What was refused, and why.
async fn attempt(session: &mut Session, statement: String) -> Option<String> {
    let error = session.execute(&statement).await.err()?;
    let why = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    Some(format!("a setting was not taken over: {statement}: {why}"))
}

/// The statement that makes a setting of a database, or of a role in it. `value`: as the catalog has it.
fn setting(database: &str, role: Option<&str>, name: &str, value: &str) -> String {
    let of = match role {
        None => format!("DATABASE {}", quote::ident(database)),
        Some(role) => format!("ROLE {} IN DATABASE {}", quote::ident(role), quote::ident(database)),
    };
    let value = match LISTS.contains(&name) {
        true => names(value).iter().map(|name| quote::literal(name)).collect::<Vec<_>>().join(", "),
        false => quote::literal(value),
    };
    format!("ALTER {of} SET {} TO {value}", quote::ident(name))
}

/// The names in a list such as `"$user", public`. A name that is empty can be written as a text, and not as a name.
fn names(list: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let (mut is_quoted, mut rest) = (false, list.chars().peekable());
    while let Some(next) = rest.next() {
        let name = names.last_mut().expect("there is always one");
        match next {
            '"' if is_quoted && rest.peek() == Some(&'"') => name.extend(rest.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => names.push(String::new()),
            white if white.is_whitespace() && !is_quoted => {}
            other => name.push(other),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_is_written_as_texts() {
        for (value, written) in [
            ("\"\"", "''"),
            ("", "''"),
            ("syn", "'syn'"),
            ("\"$user\", public", "'$user', 'public'"),
            ("\"a, b\", \"it's \"\"it\"\"\"", "'a, b', 'it''s \"it\"'"),
        ] {
            let statement = setting("d", None, "search_path", value);
            assert_eq!(statement, format!("ALTER DATABASE \"d\" SET \"search_path\" TO {written}"), "{value}");
        }
        let statement = setting("d", Some("r"), "work_mem", "7MB");
        assert_eq!(statement, "ALTER ROLE \"r\" IN DATABASE \"d\" SET \"work_mem\" TO '7MB'");
    }
}
