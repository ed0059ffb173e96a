//! The databases of a server, for the role that may make and rename them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::mark::{Mark, of_service};
use crate::{
    contract::{DatabaseLeft, Result, TaskError},
    postgres::{Credentials, Explain, Locale, Session, Target, lock, sessions},
    quote,
    synapse::database,
    task::{arguments::Connection, authentication::AuthenticationService, schema},
};

/// The role that makes and renames databases.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Administrator {
    /// Directory with the files `username` and `password` of a role that may make databases (CREATEDB) and is a member of
    /// Synapse's role, and of that of the Matrix Authentication Service where this is on the same server. Without it Synapse's own role must be able to.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_credentials_dir: Option<PathBuf>,
    /// The database to which it connects: a database that is renamed has no session in it.
    #[arg(long, default_value = MAINTENANCE)]
    pub maintenance_database: String,
}

/// There on every server, unless somebody has dropped it.
const MAINTENANCE: &str = "postgres";

impl Default for Administrator {
    fn default() -> Self {
        Self { admin_credentials_dir: None, maintenance_database: MAINTENANCE.to_owned() }
    }
}

impl Administrator {
    /// The maintenance database, for the role that makes and renames others.
    ///
    /// # Errors
    /// As [`Connection::target`].
    pub fn target(&self, connection: &Connection) -> Result<Target> {
        self.target_in(connection, &self.maintenance_database)
    }

    fn target_in(&self, connection: &Connection, database: &str) -> Result<Target> {
        let own = connection.target()?;
        let credentials = match &self.admin_credentials_dir {
            Some(directory) => Credentials::read_of("postgres.adminCredentials", directory)?,
            None => own.credentials.clone(),
        };
        Ok(Target { credentials, ..own.to(database) })
    }

    /// The same role for the server of the Matrix Authentication Service.
    pub(super) fn of_service(&self, service: &AuthenticationService) -> Self {
        Self {
            admin_credentials_dir: service.mas_admin_credentials_dir.clone(),
            maintenance_database: self.maintenance_database.clone(),
        }
    }

    /// The same as arguments of a task.
    pub fn to_args(&self) -> Vec<String> {
        let directory = self.admin_credentials_dir.iter();
        let mut args: Vec<String> =
            directory.map(|directory| format!("--admin-credentials-dir={}", directory.display())).collect();
        if self.maintenance_database != MAINTENANCE {
            args.push(format!("--maintenance-database={}", self.maintenance_database));
        }
        args
    }
}

/// A session in the maintenance database.
pub struct Server {
    pub(super) session: Session,
    /// How to reach the server as the role of [`Administrator`].
    pub target: Target,
    /// Synapse's role, or the service's: it will own what is made.
    pub owner: String,
}

/// From which name to which, and what is written on it then.
pub type Rename = (String, String, Option<Mark>);

/// A database of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub owner: String,
    pub mark: Option<Mark>,
    /// What is written on it, ours or somebody else's.
    pub comment: Option<String>,
    pub bytes: i64,
}

impl Found {
    /// The same, for people.
    pub fn as_left(&self) -> DatabaseLeft {
        let with_it = self.mark.as_ref().is_some_and(|mark| mark.with_authentication);
        DatabaseLeft::new(&self.name, self.bytes, self.mark.as_ref().map(|mark| mark.restore.as_str()))
            .with_authentication(with_it.then(|| of_service(&self.name)))
    }

    /// What somebody else has written on it.
    pub fn own_comment(&self) -> Option<String> {
        self.mark.as_ref().map_or_else(|| self.comment.clone(), |mark| mark.comment.clone())
    }
}

impl Server {
    /// Connects, and makes sure of the role's rights.
    ///
    /// # Errors
    /// Terminal, `CannotCreateDatabases`, with what to grant. What PostgreSQL says.
    pub async fn connect(connection: &Connection, administrator: &Administrator) -> Result<Self> {
        let mut server = Self::open(connection, administrator).await?;
        server.check_rights().await?;
        Ok(server)
    }

    /// Connects to the homeserver's own database, and makes sure that the role owns it: nobody else may write a mark on it.
    ///
    /// # Errors
    /// Terminal, `DatabaseMissing` and `NotDatabaseOwner`, with what to type. What PostgreSQL says.
    pub async fn connect_in_place(connection: &Connection, administrator: &Administrator) -> Result<Self> {
        let opened = Self::open_in(connection, administrator, &connection.database).await;
        let mut server = opened.map_err(|error| match error.reason.as_str() {
            "DatabaseMissing" => {
                let owner = connection.target().map(|target| target.credentials.username).unwrap_or_default();
                let creation = database::creation(&connection.database, Some(&owner), 0);
                TaskError { message: format!("{} Make an empty one: {creation};", error.message), ..error }
            }
            _ => error,
        })?;
        server.check_ownership(&connection.database).await?;
        Ok(server)
    }

    async fn open_in(connection: &Connection, administrator: &Administrator, database: &str) -> Result<Self> {
        let owner = connection.target()?.credentials.username;
        let target = administrator.target_in(connection, database)?;
        let session = target.connect().await?;
        Ok(Self { session, target, owner })
    }

    /// Connects.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn open(connection: &Connection, administrator: &Administrator) -> Result<Self> {
        Self::open_in(connection, administrator, &administrator.maintenance_database).await
    }

    /// The same as the role of another session on this server.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn in_the_role_of(self, other: &Self) -> Result<Self> {
        let target = Target { credentials: other.target.credentials.clone(), ..self.target };
        let session = target.connect().await?;
        Ok(Self { session, target, owner: self.owner })
    }

    /// Ends what earlier attempts of the operation do in the maintenance database, such as waiting for a rename.
    ///
    /// # Errors
    /// As [`sessions::end_earlier`].
    pub async fn end_earlier(&mut self) -> Result<()> {
        sessions::end_earlier(&mut self.session, &self.target.application).await.map(drop)
    }

    /// What no other server has: copies of one cluster have its identifier, and were not started in the same microsecond.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn identity(&mut self) -> Result<(i64, i64)> {
        sqlx::query_as(
            "SELECT system_identifier, (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8 FROM pg_control_system()",
        )
        .fetch_one(&mut self.session.connection)
        .await
        .explain("asking which server this is")
    }

    /// `server_version_num`.
    pub fn version(&self) -> i32 {
        self.session.version
    }

    /// Synapse's role in another database of this server.
    pub fn as_owner(&self, connection: &Connection, database: &str) -> Result<Target> {
        Ok(connection.target()?.to(database))
    }

    /// All databases but the two that PostgreSQL makes others from. One that is dropped meanwhile has no size.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn databases(&mut self) -> Result<Vec<Found>> {
        let rows: Vec<(String, String, Option<String>, i64)> = sqlx::query_as(
            "SELECT datname::text, pg_get_userbyid(datdba)::text, shobj_description(oid, 'pg_database'), \
                 CASE WHEN has_database_privilege(oid, 'CONNECT') THEN coalesce(pg_database_size(oid), 0) ELSE 0 END \
             FROM pg_database WHERE datname NOT IN ('template0', 'template1') ORDER BY 1",
        )
        .fetch_all(&mut self.session.connection)
        .await
        .explain("listing the databases")?;
        let found = |(name, owner, comment, bytes): (String, String, Option<String>, i64)| Found {
            name,
            owner,
            mark: comment.as_deref().and_then(Mark::read),
            comment,
            bytes,
        };
        Ok(rows.into_iter().map(found).collect())
    }

    /// Those of these names that belong to Synapse's role and have no comment at all.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn unmarked(&mut self, names: &[String]) -> Result<Vec<String>> {
        sqlx::query_scalar(
            "SELECT datname::text FROM pg_database WHERE datname = ANY($1) AND pg_get_userbyid(datdba) = $2 \
                 AND shobj_description(oid, 'pg_database') IS NULL ORDER BY 1",
        )
        .bind(names)
        .bind(&self.owner)
        .fetch_all(&mut self.session.connection)
        .await
        .explain("looking for databases without a mark")
    }

    /// Makes an empty database with its mark, in the tablespace of the one `beside` which it is made.
    ///
    /// # Errors
    /// As [`Self::tablespace_of`].
    pub async fn create(&mut self, name: &str, beside: &str, locale: &Locale, mark: &Mark) -> Result<()> {
        let tablespace = self.tablespace_of(beside).await?;
        let tablespace = tablespace.map(|name| format!(" TABLESPACE {}", quote::ident(&name))).unwrap_or_default();
        // It copies a template: on a busy disk that takes longer than a question.
        self.run("SET statement_timeout = '10min'", "setting the statement's time").await?;
        let template = schema::template(&mut self.session, mark.whose, locale).await?;
        let template = template.as_deref().unwrap_or("template0");
        let statement = locale.creation_from(template, name, Some(&self.owner), self.version());
        self.run(&format!("{statement}{tablespace}"), "making a database").await?;
        self.mark(name, mark).await
    }

    /// Writes a mark.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn mark(&mut self, name: &str, mark: &Mark) -> Result<()> {
        self.run(&comment(name, mark), "writing the mark of a database").await
    }

    /// Renames databases and writes marks, in this order, all of it or nothing.
    ///
    /// # Errors
    /// Transient where somebody is connected to one of them. Those of PostgreSQL.
    pub async fn rename(&mut self, renames: &[Rename]) -> Result<()> {
        let mut statements = Vec::new();
        for (from, to, mark) in renames {
            statements.push(format!("ALTER DATABASE {} RENAME TO {}", quote::ident(from), quote::ident(to)));
            statements.extend(mark.iter().map(|mark| comment(to, mark)));
        }
        self.at_once(&statements, "swapping the names of the databases").await
    }

    /// Ends all sessions in a database that our role may end. Those of a superuser it may not, and none while a task of another
    /// operation has its lock there. Says who is left.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn end_sessions(&mut self, database: &str) -> Result<Vec<String>> {
        if let Some(task) = lock::held_by_another(&mut self.session, database, &self.target.application).await? {
            return Ok(vec![format!("{task}, a task of another operation")]);
        }
        // A failed call would undo the others': each is tried on its own.
        let pids: Vec<(i32, String)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT pid, {} FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            sessions::DESCRIBED
        )))
        .bind(database)
        .fetch_all(&mut self.session.connection)
        .await
        .explain("listing the sessions in a database")?;
        let mut left = Vec::new();
        for (pid, who) in pids {
            let ended =
                sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut self.session.connection).await;
            if ended.is_err() {
                left.push(who);
            }
        }
        Ok(left)
    }

    /// All of it or nothing, in the database that it is in.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn at_once(&mut self, statements: &[String], doing: &str) -> Result<()> {
        let done = self.session.execute(&format!("BEGIN READ WRITE; {}; COMMIT", statements.join("; "))).await;
        if done.is_err() {
            let _ = self.session.execute("ROLLBACK").await;
        }
        done.explain(doing)
    }

    /// The session itself.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn run(&mut self, statement: &str, doing: &str) -> Result<()> {
        self.session.execute(statement).await.explain(doing)
    }
}

/// The statement that writes a mark.
pub fn comment(name: &str, mark: &Mark) -> String {
    format!("COMMENT ON DATABASE {} IS {}", quote::ident(name), quote::literal(&mark.to_comment()))
}

/// What a server has of the database that is to be replaced.
pub fn find<'a>(databases: &'a [Found], name: &str) -> Option<&'a Found> {
    databases.iter().find(|found| found.name == name)
}
