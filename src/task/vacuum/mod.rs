//! `task vacuum`: gives space back and refreshes the planner's statistics.
//!
//! [`survey`] looks (with [`estimate`]), [`plan`] chooses, [`run`] does it under [`guard`].

pub mod estimate;
pub mod guard;
pub mod plan;
mod run;
pub mod survey;

pub use run::run;

use jiff::Timestamp;

use super::arguments::Connection;
use crate::{api::maintenance::VacuumMode, bytes};

/// What to vacuum.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    /// Analyze: beside a serving Synapse. Full: Synapse must be down.
    #[arg(long, value_enum)]
    pub mode: VacuumMode,
    /// A table; may be given several times. Without it: all tables.
    #[arg(long = "table", value_name = "TABLE")]
    pub tables: Vec<String>,
    /// Full: leave tables alone that would give back less. 0: do every table.
    #[arg(long, default_value = "16Mi", value_parser = bytes::parse)]
    pub minimum_gain: i64,
    /// Full: how much disk is free for PostgreSQL, where --data-volume is not given.
    #[arg(long, value_parser = bytes::parse)]
    pub free_space: Option<i64>,
    /// When the work must have ended, such as 2026-01-31T03:30:00Z. What does not fit is left.
    #[arg(long)]
    pub until: Option<Timestamp>,
    /// Where the last run ended: the `cursor` of its result.
    #[arg(long)]
    pub cursor: Option<String>,
}

impl Arguments {
    fn request(&self) -> survey::Request {
        survey::Request {
            mode: self.mode,
            tables: self.tables.clone(),
            minimum_gain: self.minimum_gain,
            cursor: self.cursor.clone(),
            data_volume: self.connection.data_volume.clone(),
            free_space: self.free_space,
            stated: None,
        }
    }
}
