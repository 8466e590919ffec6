//! The server: routes, connections, and how they end.

use crate::backend::Backend;
use crate::refusal::Refusal;
use crate::{AdminKey, GatewayError, chat, guard, landing, models};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::IntoResponse as _;
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;

/// Names the model that answered.
pub(crate) const MODEL_DIGEST: HeaderName = HeaderName::from_static("x-freehold-model-digest");
/// Names the numeric contract that the answer keeps.
pub(crate) const NUMERICS: HeaderName = HeaderName::from_static("x-freehold-numerics");

/// What an operator may choose.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names (or addresses) by which this machine is called, besides the loopback ones and the address it listens on.
    pub allowed_hosts: Vec<String>,
    /// Sites whose pages may call the API from a browser, such as `https://chat.example.org`.
    pub allowed_origins: Vec<String>,
    /// Bounds on what clients may take.
    pub limits: Limits,
}

/// Bounds on what clients may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes in the body of a request.
    pub body_bytes: usize,
    /// Time for the headers of a request to arrive, from the connection or the end of the last answer on it.
    pub headers_time: Duration,
    /// Time for the body of a request to arrive.
    pub body_time: Duration,
    /// Connections at one time; more wait unaccepted.
    pub connections: usize,
    /// Requests for an answer at one time; more are told to come back.
    pub requests: usize,
    /// Tokens in the answer to a request that sets no bound.
    pub answer_tokens: usize,
    /// A stream that has nothing to say sends a comment this often, so that nothing between takes it for dead.
    pub keep_alive_interval: Duration,
    /// Time for answers under way to finish when the server is told to stop.
    pub stop_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 16 << 20,
            headers_time: Duration::from_secs(15),
            body_time: Duration::from_secs(60),
            connections: 512,
            requests: 64,
            answer_tokens: 4096,
            keep_alive_interval: Duration::from_secs(10),
            stop_time: Duration::from_secs(30),
        }
    }
}

/// The HTTP server in front of a [`Backend`].
pub struct Gateway {
    backend: Arc<dyn Backend>,
    key: AdminKey,
    options: Options,
    origins: Vec<HeaderValue>,
}

/// What handlers see.
pub(crate) struct Shared {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) key: AdminKey,
    pub(crate) options: Options,
    pub(crate) hosts: guard::Hosts,
    /// One permit per request for an answer.
    pub(crate) requests: Arc<Semaphore>,
    /// True once answers under way must end.
    pub(crate) cut: watch::Receiver<bool>,
}

impl Gateway {
    /// A server that is not yet listening.
    ///
    /// # Errors
    /// Where an allowed origin is none.
    pub fn new(backend: Arc<dyn Backend>, key: AdminKey, options: Options) -> Result<Self, GatewayError> {
        let origins = options.allowed_origins.iter().map(|origin| parse_origin(origin)).collect::<Result<_, _>>()?;
        Ok(Self { backend, key, options, origins })
    }

    /// Answers on `listener` until `shutdown` completes. Then nothing new is accepted, answers under way have
    /// [`Limits::stop_time`] to finish, and what is left is told so and cut. HTTP/1.1 only.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let limits = self.options.limits.clone();
        let (cut, cut_receiver) = watch::channel(false);
        let address = listener.local_addr().ok().map(|address| address.ip());
        let service = TowerToHyperService::new(self.router(address, cut_receiver));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(limits.headers_time).max_headers(100).max_buf_size(64 << 10);

        let graceful = GracefulShutdown::new();
        let slots = Arc::new(Semaphore::new(limits.connections));
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let (stream, slot) = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &slots) => accepted,
                Some(_) = connections.join_next() => continue,
            };
            // Small chunks of a stream go out at once.
            let _ = stream.set_nodelay(true);
            let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service.clone()));
            connections.spawn(async move {
                // Errors here are the client's: it left, or it did not speak HTTP.
                let _ = connection.await;
                drop(slot);
            });
        }
        drop(listener);

        let mut finished = std::pin::pin!(graceful.shutdown());
        if tokio::time::timeout(limits.stop_time, &mut finished).await.is_err() {
            cut.send_replace(true);
            // Time for the last words, to those who listen.
            let _ = tokio::time::timeout(Duration::from_secs(1), &mut finished).await;
        }
        connections.shutdown().await;
    }

    fn router(self, address: Option<IpAddr>, cut: watch::Receiver<bool>) -> Router {
        let shared = Arc::new(Shared {
            hosts: guard::Hosts::new(&self.options.allowed_hosts, address),
            requests: Arc::new(Semaphore::new(self.options.limits.requests)),
            backend: self.backend,
            key: self.key,
            options: self.options,
            cut,
        });
        // The layer added last is the first that a request passes.
        let mut v1 = Router::new()
            .route("/models", get(models::list))
            .route("/models/{*id}", get(models::show))
            .route("/chat/completions", post(chat::complete))
            .fallback(unknown_path)
            .method_not_allowed_fallback(unknown_method)
            .layer(DefaultBodyLimit::max(shared.options.limits.body_bytes))
            .layer(from_fn_with_state(shared.clone(), guard::key))
            .layer(from_fn_with_state(shared.clone(), guard::origin));
        if !self.origins.is_empty() {
            v1 = v1.layer(
                CorsLayer::new()
                    .allow_origin(self.origins)
                    .allow_methods([Method::GET, Method::POST])
                    .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
                    .expose_headers([guard::REQUEST_ID, MODEL_DIGEST, NUMERICS]),
            );
        }
        Router::new()
            .route("/", get(landing::page))
            .nest("/v1", v1)
            .fallback(unknown_path)
            .method_not_allowed_fallback(unknown_method)
            .layer(from_fn_with_state(shared.clone(), guard::host))
            .route("/healthz", get(async || "ok\n"))
            .layer(CatchPanicLayer::custom(|_| Refusal::Internal.into_response()))
            .layer(from_fn(guard::request_id))
            .with_state(shared)
    }
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, Option<tokio::sync::OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let slot = slots.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            // The client left already, or the process is out of file descriptors: then others must end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn unknown_path() -> Refusal {
    Refusal::UnknownPath
}

async fn unknown_method() -> Refusal {
    Refusal::Method
}

fn parse_origin(origin: &str) -> Result<HeaderValue, GatewayError> {
    let invalid = || GatewayError::InvalidOrigin(origin.into());
    let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).ok_or_else(invalid)?;
    let is_site = site.parse::<axum::http::uri::Authority>().is_ok() && !site.contains('@');
    let is_lower_case = !origin.contains(|c: char| c.is_ascii_uppercase());
    if is_site && is_lower_case { HeaderValue::from_str(origin).map_err(|_| invalid()) } else { Err(invalid()) }
}
