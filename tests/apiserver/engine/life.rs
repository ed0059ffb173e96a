//! The whole life of an operation, as a user sees it.

use std::sync::Arc;

use synapse_keeper::api::{conditions::Type, operation::Outcome};

use crate::stage::{
    Stage, tests,
    world::{ANALYZE_AND_FULL, World, is, outcomes},
};

tests![a_full_vacuum_takes_the_homeserver_down_and_brings_it_back];

async fn a_full_vacuum_takes_the_homeserver_down_and_brings_it_back(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let operator = world.operator();
    world.maintain("m", ANALYZE_AND_FULL).await;
    let done = world.until_complete("m").await;
    eprintln!("{} requests", operator.wire.count());

    world.assert_all_is_back().await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    assert!(is(&done, Type::Ready) && !is(&done, Type::Reconciling) && !is(&done, Type::Stalled));
    let status = done.status.unwrap();
    let last = status.last.unwrap();
    assert_eq!(last.freed_bytes, Some(2_000_000));
    assert!(last.downtime_seconds.is_some(), "{last:?}");
    assert_eq!(world.place.ledger.begun().len(), 3, "{}", world.place.ledger);
    assert_eq!(world.generations().await, [3, 3, 1, 3], "down once and up once; what had 0 was never touched");
}
