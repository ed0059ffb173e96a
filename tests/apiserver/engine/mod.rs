//! The engine: an operation from its Lease to its end.

mod crash;
mod endings;
mod intruders;
mod leases;
mod life;
mod refusals;
mod rest;
mod schedule;
mod trouble;

use crate::stage::Play;

pub fn tests() -> Vec<(&'static str, Play)> {
    [
        crash::tests(),
        endings::tests(),
        intruders::tests(),
        leases::tests(),
        rest::tests(),
        schedule::tests(),
        life::tests(),
        refusals::tests(),
        trouble::tests(),
    ]
    .concat()
}
