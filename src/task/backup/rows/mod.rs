//! The rows of a part, from `psql` to restic.
//!
//! [`query`] asks for them, each with the number of the transaction that wrote it. [`order`] keeps them where they lie in the
//! table, but for those that came into a gap long after their neighbours: else a few new rows would spoil a little of
//! everything that is stored. [`read`] counts, and lets them wait for the end, with what came last in each table. [`frames`]
//! cuts what there is at rows that the content itself chooses, so that it is cut in the same places every night, and
//! compresses each piece by itself: what did not change is the same bytes again, and restic has them. What is stored is SQL
//! for `psql`, by zstd.

mod frames;
mod order;
mod query;
mod read;

pub use query::{script, table_at};
pub use read::{Counted, Source, read};
