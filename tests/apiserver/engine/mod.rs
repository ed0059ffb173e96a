//! The engine: an operation from its Lease to its end.

mod life;

use crate::stage::Play;

pub fn tests() -> Vec<(&'static str, Play)> {
    [life::tests()].concat()
}
