//! The Pod of a task: where its volumes are mounted, and where its neighbours listen. The recipes and the builder of Jobs write these
//! paths into arguments and mounts, so they stand here once.

/// The credentials of PostgreSQL: the files `username` and `password`.
pub const POSTGRES: &str = "/var/run/synapse-keeper/postgres";
/// The certificate authority of PostgreSQL.
pub const POSTGRES_CA: &str = "/var/run/synapse-keeper/postgres-ca";
/// The client certificate for PostgreSQL, and its key.
pub const POSTGRES_CLIENT: &str = "/var/run/synapse-keeper/postgres-client";
/// The credentials of a role that may create and rename databases.
pub const POSTGRES_ADMIN: &str = "/var/run/synapse-keeper/postgres-admin";
/// PostgreSQL's data volume, read-only: its free space is measured there.
pub const POSTGRES_DATA: &str = "/var/run/synapse-keeper/postgres-data";

/// As [`POSTGRES`], for the Matrix Authentication Service.
pub const MAS_POSTGRES: &str = "/var/run/synapse-keeper/mas-postgres";
/// As [`POSTGRES_CA`], for the Matrix Authentication Service.
pub const MAS_POSTGRES_CA: &str = "/var/run/synapse-keeper/mas-postgres-ca";
/// As [`POSTGRES_CLIENT`], for the Matrix Authentication Service.
pub const MAS_POSTGRES_CLIENT: &str = "/var/run/synapse-keeper/mas-postgres-client";
/// As [`POSTGRES_ADMIN`], for the Matrix Authentication Service.
pub const MAS_POSTGRES_ADMIN: &str = "/var/run/synapse-keeper/mas-postgres-admin";
/// As [`POSTGRES_DATA`], for the Matrix Authentication Service.
pub const MAS_POSTGRES_DATA: &str = "/var/run/synapse-keeper/mas-postgres-data";

/// What restic reads from its environment: a file for each variable.
pub const REPOSITORY: &str = "/var/run/synapse-keeper/repository";
/// The volume with the repository, where it is on one.
pub const REPOSITORY_VOLUME: &str = "/var/run/synapse-keeper/backups";
/// The homeserver's Secrets and ConfigMaps.
pub const CONFIG: &str = "/var/run/synapse-keeper/config";
/// The homeserver's signing key.
pub const SIGNING_KEY: &str = "/var/run/synapse-keeper/signing-key";
/// The claim with the homeserver's media store.
pub const MEDIA: &str = "/var/run/synapse-keeper/media";
/// The claim with a dump.
pub const DUMP: &str = "/var/run/synapse-keeper/dump";

/// The socket of the PostgreSQL that runs beside the task, for the task and for Synapse.
pub const SCRATCH_SOCKET: &str = "/var/run/synapse-keeper/postgres-socket";
/// The port in that socket's name. While the image initialises its data folder, PostgreSQL listens on the default port, so that nobody
/// takes that server for the one that stays.
pub const SCRATCH_PORT: u16 = 5433;

/// The folder that the homeserver's own Synapse and the task share.
pub const SYNAPSE: &str = "/var/run/synapse-keeper/synapse";
/// Where that Synapse listens, on the loopback of the Pod.
pub const SYNAPSE_PORT: u16 = 18008;
