//! The engine: an operation from its Lease to its end.

mod crash;
mod endings;
mod inspection;
mod intruders;
mod kinds;
mod leases;
mod life;
mod refusals;
mod rest;
mod rights;
mod schedule;
mod shutdown;
mod trouble;

use crate::stage::Play;

/// The longest first: the others run beside them.
pub fn tests() -> Vec<(&'static str, Play)> {
    [
        crash::tests(),
        endings::tests(),
        schedule::tests(),
        shutdown::tests(),
        inspection::tests(),
        kinds::tests(),
        intruders::tests(),
        leases::tests(),
        life::tests(),
        refusals::tests(),
        rest::tests(),
        rights::tests(),
        trouble::tests(),
    ]
    .concat()
}
