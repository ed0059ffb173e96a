//! What the API server itself makes of our kinds.

mod columns;
mod examples;
mod rules;

use crate::stage::Play;

pub fn tests() -> Vec<(&'static str, Play)> {
    [columns::tests(), examples::tests(), rules::tests()].concat()
}
