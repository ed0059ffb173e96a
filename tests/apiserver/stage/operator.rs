//! The operator, in this process: as many lives as a test wants, each with a client of its own that can be cut.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use http::{Method, Request, Response};
use kube::{
    Client, Config as ClientConfig,
    client::{Body, ClientBuilder},
    runtime::events::{Recorder, Reporter},
};
use synapse_keeper::{
    context::{Config, Context},
    controller::{Scope, controllers, server::Readiness},
    metrics::Metrics,
    operation::kinds,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

/// Where a life is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The n-th request is never sent.
    Before,
    /// The API server has answered the n-th write, but the operator never sees the answer. Of reads there is nothing to
    /// tell apart: one whose answer is never seen has changed as little as one that is never sent.
    After,
}

/// A request that the API server gets late.
#[derive(Clone)]
struct Hold {
    method: Method,
    path_end: &'static str,
    came: CancellationToken,
    let_go: CancellationToken,
}

/// Counts the requests of one life and cuts it off at one of them. From then on nothing is answered any more.
#[derive(Default)]
pub struct Wire {
    /// How many requests there were, and how many of them may have changed something.
    count: AtomicUsize,
    writes: AtomicUsize,
    cut: Mutex<Option<(usize, Cut)>>,
    severed: CancellationToken,
    /// How often each verb was used on each path.
    sent: Mutex<BTreeMap<(Method, String), usize>>,
    hold: Mutex<Option<Hold>>,
}

impl Wire {
    /// Holds requests with this method and end of a path back. The first token says that one came, the second lets it go.
    pub fn hold(&self, method: Method, path_end: &'static str) -> (CancellationToken, CancellationToken) {
        let hold = Hold { method, path_end, came: CancellationToken::new(), let_go: CancellationToken::new() };
        let tokens = (hold.came.clone(), hold.let_go.clone());
        *self.hold.lock().unwrap_or_else(PoisonError::into_inner) = Some(hold);
        tokens
    }

    fn held(&self, request: &Request<Body>) -> Option<Hold> {
        let hold = self.hold.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hold.filter(|hold| hold.method == request.method() && request.uri().path().ends_with(hold.path_end))
    }

    /// Cuts at the `n`-th request or write from now on.
    pub fn cut_at(&self, n: usize, cut: Cut) {
        let counter = if cut == Cut::Before { &self.count } else { &self.writes };
        let from = counter.load(Ordering::SeqCst);
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some((from + n, cut));
    }

    pub fn is_severed(&self) -> bool {
        self.severed.is_cancelled()
    }

    /// How many requests there were.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// What was sent so far: how often, which method, which path.
    pub fn sent(&self) -> Vec<(usize, Method, String)> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.iter().map(|((method, path), count)| (*count, method.clone(), path.clone())).collect()
    }

    fn next(&self, request: &Request<Body>) -> Option<Cut> {
        let n = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let is_read = request.method() == Method::GET;
        let nth_write = self.writes.fetch_add(usize::from(!is_read), Ordering::SeqCst) + usize::from(!is_read);
        let key = (request.method().clone(), request.uri().path().to_owned());
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        let cut = *self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let here = |(at, cut)| match cut {
            Cut::Before => at == n,
            Cut::After => at == nth_write && !is_read,
        };
        cut.filter(|cut| here(*cut)).map(|(_, cut)| cut)
    }
}

/// Puts the wire between the operator's client and the API server.
struct WireLayer(Arc<Wire>);

impl<S> Layer<S> for WireLayer {
    type Service = Wired<S>;

    fn layer(&self, inner: S) -> Wired<S> {
        Wired { inner, wire: self.0.clone() }
    }
}

struct Wired<S> {
    inner: S,
    wire: Arc<Wire>,
}

impl<S, B> Service<Request<Body>> for Wired<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let wire = self.wire.clone();
        if wire.is_severed() {
            return Box::pin(std::future::pending());
        }
        let held = wire.held(&request);
        match wire.next(&request) {
            None => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    if let Some(hold) = held {
                        hold.came.cancel();
                        hold.let_go.cancelled().await;
                    }
                    answer.await
                })
            }
            Some(Cut::Before) => {
                wire.severed.cancel();
                Box::pin(std::future::pending())
            }
            Some(Cut::After) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    drop(answer.await);
                    wire.severed.cancel();
                    std::future::pending().await
                })
            }
        }
    }
}

/// How an operator is installed.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Whose rights it has.
    pub client: ClientConfig,
    /// The namespace that it looks after; it is also its own.
    pub namespace: String,
    pub config: Config,
}

impl Installation {
    pub fn new(client: ClientConfig, namespace: &str) -> Self {
        let config = Config {
            tools_image: "localhost/tools:1".to_owned(),
            tools_image_pull_policy: "IfNotPresent".to_owned(),
            own_pod: None,
            reconcile_timeout: Duration::from_secs(60),
        };
        Self { client, namespace: namespace.to_owned(), config }
    }

    /// What its reconciles share.
    pub fn context(&self) -> Context {
        self.context_of(Client::try_from(self.client.clone()).expect("a client"))
    }

    /// A client with a wire.
    pub fn client_on(&self, wire: &Arc<Wire>) -> Client {
        let builder = ClientBuilder::try_from(self.client.clone()).expect("a client");
        builder.with_layer(&WireLayer(wire.clone())).build()
    }

    fn context_of(&self, client: Client) -> Context {
        let reporter = Reporter { controller: "synapse-keeper".into(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        Context::new(client, self.config.clone(), recorder, Metrics::new(kinds::NAMES))
    }
}

/// One life of an operator. It is killed when the value goes.
pub struct Operator {
    pub wire: Arc<Wire>,
    pub metrics: Metrics,
    life: JoinHandle<()>,
}

impl Operator {
    pub fn start(installation: &Installation) -> Self {
        Self::start_wired(installation, Arc::default())
    }

    /// A life that ends at the `n`-th request.
    pub fn start_cut(installation: &Installation, n: usize, cut: Cut) -> Self {
        let wire = Arc::<Wire>::default();
        wire.cut_at(n, cut);
        Self::start_wired(installation, wire)
    }

    fn start_wired(installation: &Installation, wire: Arc<Wire>) -> Self {
        let context = Arc::new(installation.context_of(installation.client_on(&wire)));
        let metrics = context.metrics.clone();
        let namespace = Some(installation.namespace.clone());
        let scope = Scope { namespace: namespace.clone(), own: namespace };
        let severed = wire.severed.clone();
        let life = tokio::spawn(async move {
            tokio::select! {
                () = controllers(context, scope, Readiness::default(), CancellationToken::new()) => {}
                // Everything that the operator is in the middle of is dropped: this is SIGKILL.
                () = severed.cancelled() => {}
            }
        });
        Self { wire, metrics, life }
    }

    /// SIGKILL, and waits until it is dead.
    pub async fn kill(mut self) {
        self.life.abort();
        let _ = (&mut self.life).await;
    }

    /// Waits until the life has been cut.
    pub async fn severed(&self) {
        self.wire.severed.cancelled().await;
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.life.abort();
    }
}
