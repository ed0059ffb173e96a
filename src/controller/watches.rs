//! What wakes a reconcile.
//!
//! Each stream has a backoff of its own, and its errors end in the log: in a kube `Controller` all streams share one
//! backoff, so that a single watch that fails (a right that is missing) would slow down all the others.
//! Objects that are not ours pass by as metadata and are not kept.

use std::{fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        batch::v1::Job,
        coordination::v1::Lease,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{PartialObjectMeta, PartialObjectMetaExt, SelectorExt},
    runtime::{
        Controller, Predicate, PredicateConfig, WatchStreamExt, predicates,
        reflector::{self, ObjectRef, Store},
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use super::fan::Fan;
use crate::{
    api::{MANAGER, Synapse, SynapseBackup, kinds::operation_kinds, operation::OperationStatus, synapse::WorkloadRef},
    context::Context,
    metrics::Metrics,
    operation::{
        kinds,
        lease::{self, MANAGED_BY, PURPOSE_LABEL, PURPOSE_UNINSTALL, SYNAPSE_LABEL},
        observe,
        observed::JobState,
        reconcile,
        resolve::to_selector,
    },
    recipes::Operation,
};

/// Annotation in which `kubectl apply` keeps the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Which namespaces the operator looks after.
#[derive(Clone, Debug)]
pub struct Scope {
    /// This one; `None`: all.
    pub namespace: Option<String>,
    /// The operator's own.
    pub own: Option<String>,
}

impl Scope {
    /// An API over the scope.
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, client: &Client) -> Api<K> {
        match &self.namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }
}

/// What a namespaced kind must be so that its objects can be kept in a store.
pub trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// What is heard of the objects of a kind, or rather of their metadata.
pub type Heard<K> = Fan<PartialObjectMeta<K>>;

macro_rules! heard_operations {
    ($($field:ident: $kind:ty,)*) => {
        /// What is heard of the objects of each kind of operation.
        #[derive(Default)]
        pub struct HeardOperations {
            $(pub $field: Heard<$kind>,)*
        }
    };
}
operation_kinds!(heard_operations);

/// All watches: one of each kind, whoever wants to hear it.
pub struct Watches {
    client: Client,
    scope: Scope,
    metrics: Metrics,
    pub synapses: Heard<Synapse>,
    pub operations: HeardOperations,
    /// Leases of homeservers.
    pub leases: Heard<Lease>,
    /// Jobs of ours.
    pub jobs: Heard<Job>,
    pub deployments: Heard<Deployment>,
    pub stateful_sets: Heard<StatefulSet>,
    /// The chart's pre-delete hook came, failed or went.
    pub uninstalling: Fan<()>,
}

impl Watches {
    pub fn new(context: &Context, scope: Scope) -> Self {
        Self {
            client: context.client.clone(),
            scope,
            metrics: context.metrics.clone(),
            synapses: Fan::default(),
            operations: HeardOperations::default(),
            leases: Fan::default(),
            jobs: Fan::default(),
            deployments: Fan::default(),
            stateful_sets: Fan::default(),
            uninstalling: Fan::default(),
        }
    }

    /// Watches what no controller of ours is for. Never ends.
    pub async fn run(&self, context: &Context) {
        let ours = watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
        tokio::join!(
            self.jobs.tell_all(self.metadata(ours)),
            self.deployments.tell_all(self.metadata(watcher::Config::default())),
            self.stateful_sets.tell_all(self.metadata(watcher::Config::default())),
            self.uninstalling.tell_all(self.hook(context)),
        );
    }

    /// The controller of homeservers, and the store that it fills.
    pub fn synapse_controller(&self) -> (Store<Synapse>, Controller<Synapse>) {
        let metrics = self.metrics.clone();
        let note = move |synapses: &Store<Synapse>| metrics.synapses(synapses.state().iter().map(AsRef::as_ref));
        self.controller_of_ours(forget_metadata, &self.synapses, note)
    }

    /// The controller of a kind of operations.
    pub fn operation_controller<K: Operation>(&self, heard: &Heard<K>) -> (Store<K>, Controller<K>) {
        let slim = |object: &mut K| {
            forget_metadata(object);
            reconcile::forget_finished_runs(object);
        };
        self.controller_of_ours(slim, heard, |_| ())
    }

    /// Another controller of the backups, beside the one that fills this store.
    pub fn controller_beside(&self, backups: &Store<SynapseBackup>) -> Controller<SynapseBackup> {
        let wanted = predicates::generation.combine(predicates::annotations);
        let heard = self.operations.backups.listen().map(Ok).predicate_filter(wanted, PredicateConfig::default());
        let itself = |backup: PartialObjectMeta<SynapseBackup>| {
            Some(ObjectRef::new(&backup.name_any()).within(&backup.namespace().unwrap_or_default()))
        };
        Controller::for_stream(futures::stream::pending(), backups.clone()).watches_stream(heard, itself)
    }

    /// A status is written by nobody but us, and what we write is no news to us. `note` follows the store.
    fn controller_of_ours<K: Watched>(
        &self,
        slim: fn(&mut K),
        heard: &Heard<K>,
        note: impl Fn(&Store<K>) + Send + 'static,
    ) -> (Store<K>, Controller<K>) {
        let wanted = predicates::generation.combine(predicates::annotations).combine(predicates::finalizers);
        let (reader, events) = self.reflected(watcher::Config::default(), slim, heard);
        let store = reader.clone();
        let events = events.inspect_ok(move |_| note(&store));
        let changed = events.applied_objects().predicate_filter(wanted, PredicateConfig::default());
        (reader.clone(), Controller::for_stream(self.told::<K, _, _>(changed), reader))
    }

    /// The controller of the homeservers' Leases. The metrics follow the store: a Lease that is gone is reconciled no more.
    pub fn lease_controller(&self) -> (Store<Lease>, Controller<Lease>) {
        let config = watcher::Config::default().labels(&lease::selector());
        let (reader, events) = self.reflected(config, forget_metadata, &self.leases);
        let (store, metrics) = (reader.clone(), self.metrics.clone());
        let leases = events
            .inspect_ok(move |_| metrics.homeservers_down(store.state().iter().filter_map(|held| lease::down(held))));
        (reader.clone(), Controller::for_stream(self.told::<Lease, _, _>(leases.applied_objects()), reader))
    }

    /// What happens to objects, and the store that they have gone through. Who listens hears of it after the store.
    fn reflected<K: Watched>(
        &self,
        config: watcher::Config,
        slim: fn(&mut K),
        heard: &Heard<K>,
    ) -> (Store<K>, BoxStream<'static, watcher::Result<watcher::Event<K>>>) {
        let (reader, writer) = reflector::store();
        let events = watcher(self.scope.api::<K>(&self.client), small_pages(config)).default_backoff();
        let heard = heard.clone();
        let tell = move |event: &watcher::Event<K>| match event {
            Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => {
                heard.tell(&object.meta().clone().into_response_partial());
            }
            Event::Init | Event::InitDone => {}
        };
        (reader, events.modify(slim).reflect(writer).inspect_ok(tell).boxed())
    }

    /// Watches for the Job of the chart's pre-delete hook, and speaks when it comes, fails or goes.
    fn hook(&self, context: &Context) -> impl Stream<Item = ()> + Send {
        let api: Api<Job> = match &self.scope.own {
            Some(own) => Api::namespaced(self.client.clone(), own),
            None => self.scope.api(&self.client),
        };
        let config = watcher::Config::default().labels(&format!("{PURPOSE_LABEL}={PURPOSE_UNINSTALL}"));
        under_way(watcher(api, small_pages(config)).default_backoff()).filter_map(move |uninstalling| {
            let changed = context.is_uninstalling() != uninstalling;
            if changed {
                tracing::info!(uninstalling, "the chart's pre-delete hook");
                context.set_uninstalling(uninstalling);
            }
            std::future::ready(changed.then_some(()))
        })
    }

    /// Objects that are not ours pass by without what nobody wants to know of them.
    fn metadata<K>(&self, config: watcher::Config) -> BoxStream<'static, PartialObjectMeta<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = self.scope.api(&self.client);
        let stream = watcher(api, small_pages(config)).default_backoff().modify(forget_metadata).touched_objects();
        self.told::<K, _, _>(stream).filter_map(|touched| std::future::ready(touched.ok())).boxed()
    }

    /// Notes signs of life, logs errors and leaves them out.
    fn told<K, T, S>(&self, stream: S) -> impl Stream<Item = watcher::Result<T>> + use<K, T, S>
    where
        K: Resource<DynamicType = ()>,
        S: Stream<Item = watcher::Result<T>>,
    {
        let metrics = self.metrics.clone();
        let kind = kinds::name::<K>();
        stream.filter(move |item| {
            match item {
                Ok(_) => metrics.watch_event(kind),
                Err(error) => tracing::warn!(kind, %error, "a watch failed and begins again"),
            }
            std::future::ready(item.is_ok())
        })
    }
}

/// Whether a Job of the hook is there that has not failed, each time that the watch tells: one that failed stays, for its
/// log, and the release with it. A Job that went while the watch was broken is missing in the list with which it begins
/// again.
fn under_way(events: impl Stream<Item = watcher::Result<watcher::Event<Job>>>) -> impl Stream<Item = bool> {
    let counts = |job: &Job| !matches!(observe::job_state(job), JobState::Failed(_));
    let mut listed = false;
    events.filter_map(move |event| {
        let is_under_way = match event {
            Ok(watcher::Event::Init) => {
                listed = false;
                None
            }
            Ok(watcher::Event::InitApply(job)) => {
                listed |= counts(&job);
                None
            }
            Ok(watcher::Event::InitDone) => Some(listed),
            Ok(watcher::Event::Apply(job)) => Some(counts(&job)),
            Ok(watcher::Event::Delete(_)) => Some(false),
            Err(_) => None,
        };
        std::future::ready(is_under_way)
    })
}

/// Nobody reads these in the cache, and they are half of an object's size.
fn forget_metadata(object: &mut impl Resource) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// Any version of a list will do to begin with, in pages that keep the memory low.
fn small_pages(config: watcher::Config) -> watcher::Config {
    config.any_semantic().page_size(25)
}

type Refs<K> = Vec<ObjectRef<K>>;

/// A `Synapse` wakes its operations that are not finished.
pub fn operations_of_synapse<K: Operation>(store: Store<K>) -> impl Fn(PartialObjectMeta<Synapse>) -> Refs<K> {
    move |synapse| unfinished(&store, synapse.namespace().as_deref(), Some(&synapse.name_any()))
}

/// A Lease wakes the operations on its homeserver that are not finished: one of them may be next.
pub fn operations_of_lease<K: Operation>(store: Store<K>) -> impl Fn(PartialObjectMeta<Lease>) -> Refs<K> {
    move |lease| unfinished(&store, lease.namespace().as_deref(), lease.labels().get(SYNAPSE_LABEL).map(String::as_str))
}

/// A Deployment or StatefulSet wakes the operations of its namespace that have something down: it may be contested.
pub fn operations_that_hold_counts<K: Operation, W: ResourceExt>(store: Store<K>) -> impl Fn(W) -> Refs<K> {
    move |workload| {
        let namespace = workload.namespace();
        let holds_counts = |operation: &Arc<K>| {
            operation.status().and_then(OperationStatus::active_run).is_some_and(|run| run.window.is_some())
        };
        let here = store.state().into_iter().filter(|operation| operation.namespace() == namespace);
        here.filter(holds_counts).map(|operation| ObjectRef::from_obj(&*operation)).collect()
    }
}

fn unfinished<K: Operation>(store: &Store<K>, namespace: Option<&str>, synapse: Option<&str>) -> Refs<K> {
    let waits = |operation: &Arc<K>| {
        operation.namespace().as_deref() == namespace
            && Some(operation.synapse()) == synapse
            && operation.status().is_none_or(|status| status.active_run().is_some())
    };
    store.state().into_iter().filter(waits).map(|operation| ObjectRef::from_obj(&*operation)).collect()
}

/// A Lease wakes its `Synapse`, whose status names the holder.
pub fn synapse_of_lease() -> impl Fn(PartialObjectMeta<Lease>) -> Refs<Synapse> {
    move |lease| {
        let name = lease.labels().get(SYNAPSE_LABEL);
        name.map(|name| ObjectRef::new(name).within(&lease.namespace().unwrap_or_default())).into_iter().collect()
    }
}

/// A Deployment or StatefulSet wakes the `Synapse` whose main process it is, or one of whose workloads where none is named: it
/// may serve again, or no more.
pub fn synapse_of_workload<W>(store: Store<Synapse>) -> impl Fn(PartialObjectMeta<W>) -> Refs<Synapse>
where
    W: Resource<DynamicType = ()>,
{
    move |workload| {
        let (namespace, name, kind) = (workload.namespace(), workload.name_any(), W::kind(&()));
        let is_it = |one: &WorkloadRef| one.name == name && format!("{:?}", one.kind) == kind;
        let serves = |synapse: &Arc<Synapse>| {
            let workloads = &synapse.spec.workloads;
            match &workloads.main {
                Some(main) => is_it(main),
                None => {
                    let selector = workloads.selector.as_ref().and_then(to_selector);
                    workloads.refs.iter().flatten().any(is_it)
                        || selector.is_some_and(|selector| selector.matches(workload.labels()))
                }
            }
        };
        let here = store.state().into_iter().filter(|synapse| synapse.namespace() == namespace);
        here.filter(serves).map(|synapse| ObjectRef::from_obj(&*synapse)).collect()
    }
}

/// An operation wakes its `Synapse`: what it did makes the old facts old.
pub fn synapse_of_operation<K: Operation>(store: Store<K>) -> impl Fn(PartialObjectMeta<K>) -> Refs<Synapse> {
    move |meta| {
        let namespace = meta.namespace().unwrap_or_default();
        let operation = store.get(&ObjectRef::new(&meta.name_any()).within(&namespace));
        operation.map(|operation| ObjectRef::new(operation.synapse()).within(&namespace)).into_iter().collect()
    }
}

/// An operation wakes the Leases of its namespace: it may have died with one.
pub fn leases_of_namespace<K: Operation>(store: Store<Lease>) -> impl Fn(PartialObjectMeta<K>) -> Refs<Lease> {
    move |meta| {
        let namespace = meta.namespace();
        store
            .state()
            .iter()
            .filter(|lease| lease.namespace() == namespace)
            .map(|lease| ObjectRef::from_obj(&**lease))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};

    use super::*;
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    fn hook() -> Job {
        Job::default()
    }

    fn failed_hook() -> Job {
        let condition = JobCondition { type_: "Failed".to_owned(), status: "True".to_owned(), ..Default::default() };
        let status = JobStatus { conditions: Some(vec![condition]), ..Default::default() };
        Job { status: Some(status), ..Default::default() }
    }

    async fn told<const N: usize>(events: [watcher::Event<Job>; N]) -> Vec<bool> {
        under_way(futures::stream::iter(events.map(Ok))).collect().await
    }

    #[tokio::test]
    async fn a_hook_that_went_while_the_watch_was_broken_is_not_there_any_more() {
        assert_eq!(told([Init, InitApply(hook()), InitDone, Init, InitDone]).await, [true, false]);
    }

    #[tokio::test]
    async fn a_hook_that_failed_has_given_up_uninstalling() {
        assert_eq!(told([Init, InitDone, Apply(hook()), Apply(failed_hook())]).await, [false, true, false]);
        assert_eq!(told([Init, InitApply(failed_hook()), InitDone, Delete(failed_hook())]).await, [false, false]);
    }
}
