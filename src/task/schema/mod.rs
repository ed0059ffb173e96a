//! What of a database comes back, and what belongs to the server or to a superuser.
//!
//! A restore runs as Synapse's role, which is no superuser. [`belongs`] is the one list of what such a role cannot make; it reads
//! statements. [`contents`] reads the entries of a schema's dump, with their statements and what they depend on; [`facts`] reads
//! what a server has; [`choice`] decides from these what is made, what is left out, and what stands in the way. A backup, a drill, a
//! restore and a restore from somebody else's dump all ask here. [`unsaved`] finds what no dump of ours has, and [`views`] fills the
//! materialized views. [`template`] is the database in which a superuser prepares what is needed.

pub mod belongs;
pub mod choice;
pub mod contents;
pub mod facts;
pub mod template;
pub mod unsaved;
pub mod views;

pub use choice::{Choice, Needed, NotRestored, Place, told};
pub use contents::Contents;
pub use facts::Facts;
pub use template::{place_beside, template};
