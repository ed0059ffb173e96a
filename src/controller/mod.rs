//! The operator's process: watches, health, leadership, shutdown. What is done to a homeserver is elsewhere:
//! [`crate::operation`] and [`crate::inspection`].

mod backoff;
mod client;
mod fan;
pub mod leader;
mod options;
pub mod release;
pub mod server;
mod watches;

use std::sync::Arc;

use futures::{
    FutureExt, Stream, StreamExt,
    future::{BoxFuture, join_all},
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Client, Resource, ResourceExt,
    api::ListParams,
    core::PartialObjectMeta,
    runtime::{
        Controller,
        controller::{self, Action},
        events::{Recorder, Reporter},
        reflector::Store,
        watcher,
    },
};
use tokio_util::sync::CancellationToken;

use self::{
    backoff::Backoff,
    server::Readiness,
    watches::{Heard, Watches},
};
pub use self::{client::client, options::Options, watches::Scope};
use crate::{
    api::{MANAGER, Synapse, SynapseBackup, kinds::operation_kinds},
    context::{Config, Context},
    deletion,
    error::Error,
    inspection,
    metrics::Metrics,
    operation::{self, kinds, orphans},
    recipes::{Drill, Operation},
    requests::in_time,
};

/// How many objects of one kind are worked on at once.
const CONCURRENCY: u16 = 16;
/// An operation writes its status some dozen times in a row, and each wakes its homeserver and its Lease: once is enough.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(1);
/// How soon a Lease whose holder lives is looked at again, in case a watch missed its end.
const TEND_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// Longest time for a look at our kinds.
const LOOK: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs the operator until `shutdown`, or until it loses its leadership.
///
/// # Errors
/// When the health server cannot listen, or leadership was lost.
pub async fn run(
    client: Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error>> {
    let readiness = Readiness::default();
    let context = context(client.clone(), &options);
    let server = server::serve(options.listen, context.metrics.clone(), readiness.clone(), shutdown.clone()).await?;

    let mut leadership = None;
    if let Some(lease) = options.leader_election() {
        readiness.standing_by();
        leadership = leader::acquire(client, lease, shutdown.clone()).await;
        if leadership.is_none() {
            return Ok(server.await?);
        }
    }
    let work = controllers(Arc::new(context), options.scope(), readiness, shutdown).boxed();
    match leadership {
        None => work.await,
        Some(leadership) => lead(work, leadership).await?,
    }
    Ok(server.await?)
}

/// Works under leadership. The Lease is held until the work has come to its end: another must not begin beside it. Where
/// the leadership is lost, the work is dropped.
async fn lead(work: impl Future<Output = ()>, leadership: leader::Leadership) -> Result<(), leader::Lost> {
    let done = CancellationToken::new();
    let work = async {
        work.await;
        done.cancel();
        Ok(())
    };
    tokio::try_join!(work, leadership.keep(done.clone())).map(drop)
}

/// What every reconcile shares, as the options want it.
fn context(client: Client, options: &Options) -> Context {
    let reporter = Reporter { controller: MANAGER.into(), instance: options.pod_name.clone() };
    let recorder = Recorder::new(client.clone(), reporter);
    let config = Config {
        tools_image: options.tools_image.clone(),
        tools_image_pull_policy: options.tools_image_pull_policy.clone(),
        own_pod: options.own_pod(),
        reconcile_timeout: std::time::Duration::from_secs(60),
    };
    Context::new(client, config, recorder, Metrics::new(kinds::NAMES))
}

/// All controllers, until `shutdown`. A reconcile that runs comes to its end first.
pub async fn controllers(context: Arc<Context>, scope: Scope, readiness: Readiness, shutdown: CancellationToken) {
    let watches = Watches::new(&context, scope.clone());
    // What an operation left behind comes back without its CRD: nobody waits for that.
    let (leases, lease_controller) = watches.lease_controller();
    let orphans =
        lease_controller.with_config(controller::Config::default().concurrency(CONCURRENCY).debounce(SETTLED));
    macro_rules! woken_by_operations {
        ($($field:ident: $kind:ty,)*) => {
            orphans$(.watches_stream(heard(&watches.operations.$field), watches::leases_of_namespace(leases.clone())))*
        };
    }
    let orphans = operation_kinds!(woken_by_operations);
    // All on the heap: futures of this size, one in the other, would take megabytes of stack.
    let ours = async {
        if wait_for_kinds(&context, &scope, &readiness, &shutdown).await {
            controllers_of_kinds(&context, &watches, &readiness, &shutdown).await;
        }
    }
    .boxed();
    let work = async { tokio::join!(drive("Lease", orphans, tend, context.clone(), shutdown.clone()), ours) };
    tokio::select! {
        _ = work => {}
        () = watches.run(&context).boxed() => {}
    }
}

/// What a controller is woken by. Errors end in the log (see [`watches`]).
fn heard<K>(heard: &Heard<K>) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>> + Send + use<K>
where
    K: Clone + Send + 'static,
{
    heard.listen().map(Ok)
}

macro_rules! operation_controllers {
    ($($field:ident: $kind:ty,)*) => {
        /// The controller of each kind of operation, with the store that it fills.
        struct OperationControllers {
            $($field: (Store<$kind>, Controller<$kind>),)*
        }

        impl OperationControllers {
            fn new(watches: &Watches) -> Self {
                Self { $($field: operations(watches, &watches.operations.$field),)* }
            }

            /// An operation wakes its homeserver.
            fn wake(&self, homeservers: Controller<Synapse>, watches: &Watches) -> Controller<Synapse> {
                homeservers$(.watches_stream(
                    heard(&watches.operations.$field),
                    watches::synapse_of_operation(self.$field.0.clone()),
                ))*
            }

            /// Every store has all objects of its kind. False: a watch has ended before.
            fn are_ready(&self) -> impl Future<Output = bool> + Send + use<> {
                let stores = ($(self.$field.0.clone(),)*);
                async move {
                    let ($($field,)*) = stores;
                    true $(&& $field.wait_until_ready().await.is_ok())*
                }
            }

            fn drive(self, context: &Arc<Context>, shutdown: &CancellationToken) -> Vec<BoxFuture<'static, ()>> {
                vec![$(drive_operations(self.$field.1, context, shutdown)),*]
            }
        }
    };
}
operation_kinds!(operation_controllers);

/// The controllers of our own kinds.
async fn controllers_of_kinds(
    context: &Arc<Context>,
    watches: &Watches,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) {
    let operations = OperationControllers::new(watches);
    let backups = operations.backups.0.clone();
    let drills = watches
        .controller_beside(&backups)
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .owns_stream(heard(&watches.jobs))
        .reconcile_all_on(watches.uninstalling.listen());
    let deletions =
        watches.controller_beside(&backups).with_config(controller::Config::default().concurrency(CONCURRENCY));
    let (synapses, synapse_controller) = watches.synapse_controller();
    let homeservers = synapse_controller
        .with_config(controller::Config::default().concurrency(CONCURRENCY).debounce(SETTLED))
        .owns_stream(heard(&watches.jobs))
        .watches_stream(heard(&watches.leases), watches::synapse_of_lease())
        .watches_stream(heard(&watches.deployments), watches::synapse_of_workload(synapses.clone()))
        .watches_stream(heard(&watches.stateful_sets), watches::synapse_of_workload(synapses.clone()));
    let homeservers = operations.wake(homeservers, watches);

    let (ready, operations_are_ready) = (readiness.clone(), operations.are_ready());
    tokio::spawn(async move {
        if operations_are_ready.await && synapses.wait_until_ready().await.is_ok() {
            ready.ready();
        }
    });
    // The store has heard of it first.
    let ages = watches.operations.backups.listen().for_each(|_| {
        context.metrics.backups(backups.state().iter().map(AsRef::as_ref));
        std::future::ready(())
    });
    let mut work = operations.drive(context, shutdown);
    work.extend([
        drive(Drill::NAME, drills, drill, context.clone(), shutdown.clone()),
        drive("Deletion", deletions, deletion::reconcile::reconcile, context.clone(), shutdown.clone()),
        drive("Synapse", homeservers, inspection::reconcile::reconcile, context.clone(), shutdown.clone()),
    ]);
    tokio::select! {
        _ = join_all(work) => {}
        () = ages => {}
    }
}

/// The controller of a kind of operations, with all that wakes one.
fn operations<K: Operation>(watches: &Watches, of_kind: &Heard<K>) -> (Store<K>, Controller<K>) {
    let (store, controller) = watches.operation_controller(of_kind);
    let controller = controller
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .owns_stream(heard(&watches.jobs))
        .watches_stream(heard(&watches.synapses), watches::operations_of_synapse(store.clone()))
        .watches_stream(heard(&watches.leases), watches::operations_of_lease(store.clone()))
        .watches_stream(heard(&watches.deployments), watches::operations_that_hold_counts(store.clone()))
        .watches_stream(heard(&watches.stateful_sets), watches::operations_that_hold_counts(store.clone()))
        .reconcile_all_on(watches.uninstalling.listen());
    (store, controller)
}

fn drive_operations<K: Operation>(
    controller: Controller<K>,
    context: &Arc<Context>,
    shutdown: &CancellationToken,
) -> BoxFuture<'static, ()> {
    let reconcile = operation::reconcile::reconcile::<K>;
    drive(K::NAME, controller, reconcile, context.clone(), shutdown.clone())
}

/// One reconcile of a backup's drills, where it wants them or one is under way.
async fn drill(backup: Arc<SynapseBackup>, context: Arc<Context>) -> Result<Action, Error> {
    let drill = Drill(Arc::unwrap_or_clone(backup));
    let is_under_way = drill.status().is_some_and(|status| status.active_run().is_some());
    if drill.0.spec.verify.is_none() && !is_under_way {
        return Ok(Action::await_change());
    }
    operation::reconcile::reconcile(Arc::new(drill), context).await
}

/// Runs one controller, with a backoff for each object. On the heap: such a future is large, and they are many.
fn drive<K, F, R>(
    kind: &'static str,
    controller: Controller<K>,
    reconcile: F,
    context: Arc<Context>,
    shutdown: CancellationToken,
) -> BoxFuture<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    F: Fn(Arc<K>, Arc<Context>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let backoff = Arc::new(Backoff::default());
    let (after_error, after_success) = (backoff.clone(), backoff);
    let reconcile = Arc::new(reconcile);
    let never_began = shut_down_before_it_began(controller.store(), shutdown.clone());
    let work = controller
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(
            move |object: Arc<K>, context: Arc<Context>| {
                let (reconcile, backoff) = (reconcile.clone(), after_success.clone());
                async move {
                    let key = object.uid().unwrap_or_default();
                    let result = reconcile(object, context.clone()).await;
                    match &result {
                        Ok(_) => {
                            backoff.reset(&key);
                            context.metrics.reconciled(kind, "ok");
                        }
                        Err(error) => context.metrics.reconciled(kind, error.class()),
                    }
                    result
                }
            },
            move |object: Arc<K>, error: &Error, _| {
                let wait = after_error.next(&object.uid().unwrap_or_default());
                // The API server's conflicts are the normal way of meeting somebody else's write.
                if error.class() == "conflict" {
                    tracing::debug!(kind, name = object.name_any(), %error, "again");
                } else {
                    tracing::warn!(kind, namespace = object.namespace(), name = object.name_any(), %error, ?wait, "reconcile failed");
                }
                Action::requeue(wait)
            },
            context,
        )
        .for_each(move |result| async move {
            match result {
                Ok(_) | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(kind, %error, "watch"),
            }
        });
    async move {
        tokio::select! {
            () = work => {}
            () = never_began => {}
        }
    }
    .boxed()
}

/// Returns at a shutdown that comes before the first list was complete. kube's controller waits for that list even then,
/// and nothing can be under way.
async fn shut_down_before_it_began<K>(store: Store<K>, shutdown: CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    shutdown.cancelled().await;
    if store.wait_until_ready().now_or_never().is_some() {
        std::future::pending::<()>().await;
    }
}

/// Looks after a homeserver's Lease.
async fn tend(held: Arc<Lease>, context: Arc<Context>) -> Result<Action, Error> {
    let tended = orphans::tend(&context, &held, false);
    Ok(match in_time(context.config.reconcile_timeout, tended).await? {
        orphans::Outcome::Alive => Action::requeue(TEND_EVERY),
        orphans::Outcome::Stopping => Action::requeue(std::time::Duration::from_secs(1)),
        orphans::Outcome::Freed | orphans::Outcome::KeptDown => Action::await_change(),
        orphans::Outcome::Unreadable(why) => {
            tracing::error!(
                namespace = held.namespace(),
                name = held.name_any(),
                why,
                "a Lease of ours cannot be read: a person must look at it"
            );
            Action::requeue(TEND_EVERY)
        }
    })
}

/// Waits until the API server knows our kinds: CRDs may be installed after us. False: shut down meanwhile.
async fn wait_for_kinds(context: &Context, scope: &Scope, readiness: &Readiness, shutdown: &CancellationToken) -> bool {
    loop {
        let one = ListParams::default().limit(1);
        macro_rules! list_each {
            ($($field:ident: $kind:ty,)*) => {
                async {
                    scope.api::<Synapse>(&context.client).list(&one).await?;
                    $(scope.api::<$kind>(&context.client).list(&one).await?;)*
                    Ok(())
                }
            };
        }
        let found = operation_kinds!(list_each);
        let found = tokio::select! {
            found = in_time(LOOK, found) => found,
            () = shutdown.cancelled() => return false,
        };
        match found {
            Ok(()) => return true,
            Err(error) => {
                tracing::warn!(%error, "waits for the CustomResourceDefinitions of synapse-keeper.dev");
                readiness.waiting_for(&format!("the CustomResourceDefinitions of synapse-keeper.dev: {error}"));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(std::time::Duration::from_secs(2)) => {}
            () = shutdown.cancelled() => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{client::tests::silent_server, *};

    #[tokio::test]
    async fn an_operator_that_gets_no_answer_shuts_down() {
        let client = Client::try_from(silent_server().await).expect("a client");
        let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.into(), instance: None });
        let config = Config {
            tools_image: String::new(),
            tools_image_pull_policy: String::new(),
            own_pod: None,
            reconcile_timeout: Duration::from_secs(60),
        };
        let context = Arc::new(Context::new(client, config, recorder, Metrics::new(kinds::NAMES)));
        let shutdown = CancellationToken::new();
        let scope = Scope { namespace: None, own: None };
        let work = controllers(context, scope, Readiness::default(), shutdown.clone());
        let signal = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            shutdown.cancel();
        };
        let ended = tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(work, signal) }).await;
        assert!(ended.is_ok(), "it waits for an answer");
    }
}
