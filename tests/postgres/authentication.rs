//! The database of the Matrix Authentication Service beside Synapse's: both are of one moment, and come back together.

mod backup;
mod portable;
mod restore;
mod undo;

use crate::support::{AUTHENTICATION_LOCALE, Database, Repository, Server, server};

/// A homeserver with such a service.
struct Homeserver {
    synapse: Database,
    mas: Database,
    repository: Repository,
}

impl Homeserver {
    /// Both databases on the server that all tests share.
    fn on_one_server(name: &str) -> Self {
        Self::with_mas_on(server(), name)
    }

    /// The service has a server of its own.
    fn on_two_servers(name: &str) -> Self {
        Self::with_mas_on(Server::of_its_own(&[]), name)
    }

    fn with_mas_on(server: &'static Server, name: &str) -> Self {
        let mas = Database::of_authentication_service(server, &format!("{name}_mas"));
        Self { synapse: Database::of_synapse(name), mas, repository: Repository::new() }
    }
}
