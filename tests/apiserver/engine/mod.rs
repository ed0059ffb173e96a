//! The engine: an operation from its Lease to its end.

mod crash;
mod life;

use crate::stage::Play;

pub fn tests() -> Vec<(&'static str, Play)> {
    [crash::tests(), life::tests()].concat()
}
