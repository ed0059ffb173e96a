//! PostgreSQL, as the tasks need it: sessions that never outlive their task, errors that say what to do, and the facts
//! that decide whether a statement is safe now.
//!
//! Nothing in here is about Synapse but the idea that one role owns its tables.

pub mod clients;
pub mod connect;
pub mod credentials;
pub mod disk;
pub mod errors;
pub mod horizon;
pub mod locale;
pub mod lock;
pub mod programs;
mod reach;
pub mod relations;
pub mod said;
pub mod sessions;
pub mod settings;
mod suitable;

pub use connect::{Application, ClientCertificate, Session, Target};
pub use credentials::Credentials;
pub use errors::Explain;
pub use locale::Locale;
pub use reach::forget_variables;
pub use suitable::check_server;

pub use crate::contract::Result;
