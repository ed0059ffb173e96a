//! A database of the Matrix Authentication Service: in its shape, not made by it (`tests/support/authentication.sql`).

use super::{Database, PASSWORD, Program, Server};

/// Its locale: another than Synapse's.
pub const LOCALE: &str = "C.UTF-8";

const SCHEMA: &str = include_str!("../../support/authentication.sql");

impl Database {
    /// One with users and sessions, of the role `mas`.
    pub fn of_authentication_service(server: &'static Server, name: &str) -> Self {
        let database = Self::empty_of_authentication_service(server, name);
        database.sql(&format!("SET ROLE mas; {SCHEMA}"));
        database
    }

    /// An empty one of that role.
    pub fn empty_of_authentication_service(server: &'static Server, name: &str) -> Self {
        let with = format!("OWNER mas TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE '{LOCALE}' LC_CTYPE '{LOCALE}'");
        server.psql("postgres", &format!("CREATE DATABASE \"{name}\" {with}"));
        Self { name: name.to_owned(), server }
    }
}

impl Program {
    /// The task is told of that database, with the Secret of the role `mas`.
    pub fn authentication_service(self, database: &Database) -> Self {
        self.authentication_service_as(database, "mas", PASSWORD)
    }

    /// The same with the Secret of another role, or a wrong one.
    pub fn authentication_service_as(self, database: &Database, username: &str, password: &str) -> Self {
        let secret = self.mounted("mas", username, password);
        let port = database.server.port.to_string();
        let place = ["--mas-host", "127.0.0.1", "--mas-port", &port, "--mas-database", &database.name];
        self.with(&place).with(&["--mas-credentials-dir", &secret])
    }

    /// Mounts the Secret of a role that may make databases on its server.
    pub fn authentication_administrator(self, username: &str) -> Self {
        let secret = self.mounted("mas-administrator", username, PASSWORD);
        self.with(&["--mas-admin-credentials-dir", &secret])
    }
}
