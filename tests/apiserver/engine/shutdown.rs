//! SIGTERM, as Kubernetes sends it when it moves the operator: what runs comes to its end, and the next may begin at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use k8s_openapi::api::{batch::v1::Job, coordination::v1::Lease};
use serde_json::json;
use synapse_keeper::controller::{
    self, Options,
    leader::{self, LeaderLease},
};
use tokio_util::sync::CancellationToken;

use crate::stage::{
    Stage,
    operator::{Installation, Wire},
    tests,
    world::{ANALYZE, World},
};

tests![
    a_leader_finishes_what_it_does_and_then_frees_its_lease,
    a_leader_whose_pod_is_gone_is_followed_sooner_than_one_whose_pod_is_there,
];

const ELECTION: &str = "election";

async fn a_leader_finishes_what_it_does_and_then_frees_its_lease(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.maintain("m", ANALYZE).await;
    let (wire, shutdown) = (Arc::<Wire>::default(), CancellationToken::new());
    // A Job is on its way when the signal comes.
    let (came, let_go) = wire.hold(Method::POST, "/jobs");
    let client = world.installation.client_on(&wire);
    let run = controller::run(client, options(&world.installation), shutdown.clone());
    let meanwhile = async {
        came.cancelled().await;
        world.until::<Lease>("synapse-keeper-example", "is held", |lease| lease.is_some()).await;
        shutdown.cancel();
        let before = election(&world).await.spec.expect("a spec").renew_time;
        let renewed = move |lease: Option<&Lease>| {
            lease.and_then(|lease| lease.spec.as_ref()).is_some_and(|spec| spec.renew_time > before)
        };
        let after = world.until::<Lease>(ELECTION, "is renewed while it works", renewed).await.expect("it is there");
        let holder = after.spec.and_then(|spec| spec.holder_identity);
        assert_eq!(holder.as_deref(), Some("operator-1"), "it leads while it works");
        assert_eq!(jobs(&world).await, 0);
        world.maintain("late", ANALYZE).await;
        let_go.cancel();
    };
    let (ended, ()) = tokio::join!(async { run.await.map_err(|error| error.to_string()) }, meanwhile);
    assert_eq!(ended, Ok(()));
    assert!(jobs(&world).await > 0, "it was cut off before its Job was there");
    assert_eq!(election(&world).await.spec.and_then(|spec| spec.holder_identity), None, "the Lease is free");
    let late = world.api::<synapse_keeper::api::SynapseMaintenance>().get("late").await.expect("it is there");
    assert!(late.status.is_none(), "it began something new");
    assert!(world.lease().await.is_some(), "the run itself goes on under the next operator");

    let _operator = world.operator();
    world.until_complete("m").await;
    world.until_complete("late").await;
    world.assert_all_is_back().await;
}

/// Killed without a word, and its successor has another name.
async fn a_leader_whose_pod_is_gone_is_followed_sooner_than_one_whose_pod_is_there(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = World::empty(&stage, test).await;
    // The namespace's account may come a moment later.
    let containers = json!([{"name": "it", "image": "localhost/it:1"}]);
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "there"}, "spec": {"containers": containers}});
    world.until_a_pod("is taken", pod.clone(), |answer| answer.is_ok()).await;
    world.apply(&pod.to_string()).await;
    for (name, holder) in [("of-gone", "gone"), ("of-there", "there")] {
        let lease = format!(
            "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{name: {name}}}\nspec: {{holderIdentity: {holder}}}"
        );
        world.apply(&lease).await;
    }
    let candidate = |name: &str| {
        let lease =
            LeaderLease { namespace: world.namespace.clone(), name: name.to_owned(), identity: "next".to_owned() };
        let began = Instant::now();
        let won = leader::acquire(world.stage.admin.clone(), lease, CancellationToken::new());
        async move { won.await.map(|_| began.elapsed()).expect("it leads in the end") }
    };
    let (of_gone, of_there) = tokio::join!(candidate("of-gone"), candidate("of-there"));
    assert!(of_gone >= Duration::from_secs(10), "a leader that runs on renews within this time: {of_gone:?}");
    assert!(of_gone + Duration::from_secs(5) < of_there, "{of_gone:?}, {of_there:?}");
    assert!(of_there >= Duration::from_secs(25), "{of_there:?}");
}

async fn election(world: &World) -> Lease {
    world.api::<Lease>().get(ELECTION).await.expect("the election's Lease")
}

async fn jobs(world: &World) -> usize {
    world.api::<Job>().list(&Default::default()).await.expect("a list").items.len()
}

fn options(installation: &Installation) -> Options {
    Options {
        tools_image: installation.config.tools_image.clone(),
        tools_image_pull_policy: installation.config.tools_image_pull_policy.clone(),
        watch_namespace: installation.namespace.clone(),
        leader_election_lease: ELECTION.to_owned(),
        pod_namespace: Some(installation.namespace.clone()),
        pod_name: Some("operator-1".to_owned()),
        listen: "127.0.0.1:0".parse().expect("an address"),
    }
}
