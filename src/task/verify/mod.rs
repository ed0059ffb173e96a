//! `task verify`: restores a backup into a PostgreSQL that is thrown away afterwards, and looks whether it is whole.

/// The PostgreSQL beside the task does not answer: what it printed says why.
pub const SILENT: &str = "ScratchServerSilent";
