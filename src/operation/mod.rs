//! The engine: it carries out operations of every kind.
//!
//! A reconcile is observe → plan → act → report:
//!
//! - [`observe`] reads what the next decision needs from the API server, and nothing else;
//! - [`plan`](mod@plan) is a pure function of the object, what was observed and the time. It returns the status as it
//!   should be and the one next action;
//! - [`reconcile`] writes that status first and acts after it. So an operator that is killed between any two requests is
//!   followed by one that finds on record what the last one was about to do;
//! - [`act`] does the one thing.
//!
//! What must outlive the object, its CRD and the operator stands on the homeserver's [`lease`]; [`orphans`] brings back
//! what an operation left behind that is no more.

pub mod act;
pub mod claims;
mod cron;
pub mod events;
pub mod headline;
pub mod image;
pub mod job;
pub mod kinds;
pub mod lease;
pub mod observe;
pub mod observed;
pub mod orphans;
pub mod pinned;
pub mod plan;
mod pod_trouble;
pub mod reconcile;
pub mod refused_pods;
pub mod report;
pub mod resolve;
pub mod scale;
pub mod schedule;
