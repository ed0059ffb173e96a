//! The engine: an operation from its Lease to its end.

mod backup;
mod crash;
mod deletion;
mod drill;
mod endings;
mod inspection;
mod intruders;
mod kinds;
mod leases;
mod life;
mod limits;
mod media;
mod older;
mod refusals;
mod rest;
mod restore;
mod rights;
mod room;
mod schedule;
mod shutdown;
mod sidecars;
mod trouble;
mod undo;
mod unfinished;

use std::time::Duration;

use k8s_openapi::api::events::v1::Event;

use crate::stage::{
    Play,
    world::{PATIENCE, World},
};

/// The longest first: the others run beside them.
pub fn tests() -> Vec<(&'static str, Play)> {
    [
        crash::tests(),
        deletion::tests(),
        older::tests(),
        drill::tests(),
        backup::tests(),
        endings::tests(),
        trouble::tests(),
        schedule::tests(),
        shutdown::tests(),
        inspection::tests(),
        kinds::tests(),
        intruders::tests(),
        leases::tests(),
        life::tests(),
        limits::tests(),
        media::tests(),
        refusals::tests(),
        rest::tests(),
        restore::tests(),
        rights::tests(),
        room::tests(),
        sidecars::tests(),
        undo::tests(),
        unfinished::tests(),
    ]
    .concat()
}

/// Waits for the event of this reason about a maintenance, and sees that it is the only one; gives its type and its words.
async fn told(world: &World, name: &str, reason: &str) -> (String, String) {
    let wanted = |event: &Event| {
        event.reason.as_deref() == Some(reason)
            && event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(name))
    };
    // An event is published after the status is written.
    for _ in 0..300 {
        let events = world.api::<Event>().list(&Default::default()).await.expect("a list").items;
        let found: Vec<Event> = events.into_iter().filter(wanted).collect();
        if let [event] = found.as_slice() {
            assert!(event.series.is_none(), "told more than once: {event:?}");
            return (event.type_.clone().unwrap_or_default(), event.note.clone().unwrap_or_default());
        }
        assert!(found.is_empty(), "told more than once: {found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no event says {reason}");
}

/// A command of `kubectl`, as a message has it.
async fn type_it(world: &World, command: &str) {
    let unquoted = command.replace('\'', "");
    let words: Vec<&str> = unquoted.split(' ').skip(1).collect();
    let mut kubectl = world.stage.control_plane.program("kubectl");
    kubectl.args(words);
    // `kubectl delete` waits for ever.
    let typed = tokio::process::Command::from(kubectl).kill_on_drop(true).output();
    let typed = tokio::time::timeout(PATIENCE, typed).await;
    let typed = typed.unwrap_or_else(|_| panic!("{command} does not end")).expect("kubectl");
    assert!(typed.status.success(), "{command}: {}", String::from_utf8_lossy(&typed.stderr));
}
