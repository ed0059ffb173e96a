//! What runs in Jobs: `synapse-keeper task …`.
//!
//! A task runs by hand as well, against any PostgreSQL. It is told everything by its arguments and by mounted files, does
//! its work, prints its progress as JSON lines, and reports how it ended (see [`report`]).

pub mod report;
