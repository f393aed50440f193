//! Connections: accepts them, limits them, ends them.
//!
//! Slow clients cost a little memory each and nothing else: there is no thread for each, and one sweep a second ends those that take too long
//! over a head, a body or an answer. When all places are taken, those that have had theirs longest without asking for anything make room.

use crate::auth::Peer;
use crate::pace::{Answer, Limits, Pace, Paced, Phase, Upload, Verdict};
use crate::tls::{self, Tls};
use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

/// Bytes of a connection that may be read ahead, or wait to be written. Less makes uploads slower, more lets slow clients hold more memory.
const BUFFER: usize = 64 * 1024;
/// Most lines of a head.
const MAX_HEADERS: usize = 64;
/// Bytes that wait in the kernel before a connection has no more room. So a client that reads slowly holds little of the kernel's memory too,
/// and room that it makes shows soon.
const UNSENT: u32 = 256 * 1024;
/// How often connections are looked at.
const SWEEP: Duration = Duration::from_millis(500);
/// How long the rest of a refused upload is thrown away.
const LINGER: Duration = Duration::from_secs(2);
/// Pause after an accept that failed for lack of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Open files that are left to the storage, beside those of connections.
const OTHER_FILES: u64 = 1024;
/// What a client gets when there is no place for it.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 65\r\nretry-after: 1\r\n\
connection: close\r\n\r\n{\"error\":\"overloaded\",\"message\":\"all connections are in use now\"}";

/// Limits of connections.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ConnectionLimits {
    /// Most connections at once. When there is no place, those without a request make room, the oldest first; when all have one, 503.
    pub max_connections: usize,
    /// Largest head of a request, in bytes: 8192 to 65536.
    pub max_header_bytes: usize,
    /// How long a TLS handshake may take, in seconds.
    pub handshake_seconds: u64,
    /// How long a request's head may take, in seconds.
    pub header_seconds: u64,
    /// How long a connection is kept without a request, in seconds.
    pub idle_seconds: u64,
    /// How many bytes a second a client must send of a request's body, or read of an answer, over `slow_seconds`.
    pub min_bytes_per_second: u64,
    /// Over how many seconds that counts. Only time in which the service waits for the client does.
    pub slow_seconds: u64,
    /// How long running requests may take to finish at shutdown, in seconds.
    pub drain_seconds: u64,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_header_bytes: 32 * 1024,
            handshake_seconds: 10,
            header_seconds: 15,
            idle_seconds: 75,
            min_bytes_per_second: 1024,
            slow_seconds: 30,
            drain_seconds: 30,
        }
    }
}

impl ConnectionLimits {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        if !(8192..=BUFFER).contains(&self.max_header_bytes) {
            return Err(format!("connections.max-header-bytes is {}, expected 8192 to {BUFFER}", self.max_header_bytes));
        }
        if self.max_connections == 0 || self.header_seconds == 0 || self.handshake_seconds == 0 || self.slow_seconds == 0 {
            return Err("max-connections, header-seconds, handshake-seconds and slow-seconds of connections can't be 0".into());
        }
        Ok(())
    }

    fn pace(&self) -> Limits {
        Limits {
            handshake: Duration::from_secs(self.handshake_seconds),
            head: Duration::from_secs(self.header_seconds),
            idle: Duration::from_secs(self.idle_seconds),
            linger: LINGER,
            window: Duration::from_secs(self.slow_seconds),
            min_rate: self.min_bytes_per_second,
        }
    }
}

/// Connections that are there.
#[derive(Debug)]
struct Connections {
    all: Mutex<All>,
    max: usize,
    limits: Limits,
}

#[derive(Debug, Default)]
struct All {
    next: u64,
    by_number: HashMap<u64, (Arc<Pace>, AbortHandle)>,
}

/// A place among the connections, given back when it is dropped.
struct Place(Arc<Connections>, u64);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.all().by_number.remove(&self.1);
    }
}

impl Connections {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a connection, if there is a place or one can be made.
    fn admit<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        pace: &Arc<Pace>,
        run: impl FnOnce(Place) -> F,
    ) -> bool {
        let mut all = self.all();
        if all.by_number.len() >= self.max {
            self.make_room(&mut all);
        }
        if all.by_number.len() >= self.max {
            return false;
        }
        let number = all.next;
        all.next += 1;
        // Under the lock, so that a connection that ends at once finds itself in the table.
        let handle = tasks.spawn(run(Place(self.clone(), number))).abort_handle();
        all.by_number.insert(number, (pace.clone(), handle));
        true
    }

    /// Ends connections that ask for nothing, the oldest first. Some at once, as looking for them takes time.
    fn make_room(&self, all: &mut All) {
        let mut unused: Vec<(Duration, u64)> =
            all.by_number.iter().filter_map(|(number, (pace, _))| Some((pace.unused_for()?, *number))).collect();
        let some = unused.len().min((self.max / 32).max(1));
        if some == 0 {
            return;
        }
        unused.select_nth_unstable_by(some - 1, |one, other| other.cmp(one));
        for (_, number) in unused.iter().take(some) {
            if let Some((_, handle)) = all.by_number.remove(number) {
                handle.abort();
            }
        }
        tracing::debug!(ended = some, "made room for connections");
    }

    fn sweep(&self) {
        let all = self.all();
        for (pace, handle) in all.by_number.values() {
            if let Some(verdict) = pace.judge(&self.limits) {
                match verdict {
                    Verdict::TooLong(Phase::Idle | Phase::Lingering) => {}
                    verdict => tracing::debug!(?verdict, "a slow client"),
                }
                handle.abort();
            }
        }
    }

    fn end_all(&self) {
        for (_, handle) in self.all().by_number.values() {
            handle.abort();
        }
    }
}

/// Serves until `shutdown`, then takes no more connections and lets running requests finish, up to a limit.
///
/// # Errors
/// When the listener fails for good.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    raise_file_limit(limits.max_connections);
    let connections = Arc::new(Connections { all: Mutex::default(), max: limits.max_connections, limits: limits.pace() });
    let tasks = TaskTracker::new();
    let mut http = http1::Builder::new();
    // The head's time is limited by the sweep: hyper's own timer would be one more to set for each request.
    http.header_read_timeout(None).max_buf_size(BUFFER).max_header_size(limits.max_header_bytes).max_headers(MAX_HEADERS);
    let http = Arc::new(http);
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let (stream, addr) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            _ = sweep.tick() => {
                connections.sweep();
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_lost(&error) => continue,
                Err(error) => {
                    // Most likely no more open files: those that ask for nothing make room.
                    tracing::warn!(%error, "can't accept a connection");
                    connections.make_room(&mut connections.all());
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        set_options(&stream);
        let pace = Arc::new(Pace::new(if tls.is_some() { Phase::Handshake } else { Phase::Head }));
        let mut stream = Some(stream);
        connections.admit(&tasks, &pace, |place| {
            let connection = Connection {
                stream: stream.take(),
                addr,
                tls: tls.clone(),
                router: router.clone(),
                http: http.clone(),
                pace: pace.clone(),
                shutdown: shutdown.clone(),
            };
            async move {
                connection.run().await;
                drop(place);
            }
        });
        if let Some(stream) = stream.filter(|_| tls.is_none()) {
            // As much as goes at once: nobody waits for a client that there is no place for.
            let _ = stream.try_write(FULL);
        }
    }
    drop(listener);
    drain(&connections, &tasks, Duration::from_secs(limits.drain_seconds)).await;
    Ok(())
}

async fn drain(connections: &Connections, tasks: &TaskTracker, limit: Duration) {
    tasks.close();
    let mut sweep = tokio::time::interval(SWEEP);
    let mut end = pin!(tokio::time::sleep(limit));
    loop {
        tokio::select! {
            () = tasks.wait() => return,
            _ = sweep.tick() => connections.sweep(),
            () = &mut end => break,
        }
    }
    tracing::warn!(connections = connections.all().by_number.len(), "requests that did not finish in time are cut off");
    connections.end_all();
    tasks.wait().await;
}

/// A connection that was gone before it was accepted, which is nobody's fault.
fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn set_options(stream: &TcpStream) {
    // They make it faster and cheaper; without them it works too.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

/// Lets the process open as many files as it may.
fn raise_file_limit(connections: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    let wanted = connections as u64 + OTHER_FILES;
    match getrlimit(Resource::Nofile).current {
        Some(files) if files < wanted => {
            tracing::warn!(files, wanted, "this process may open too few files for that many connections; raise its limit (`ulimit -n`)");
        }
        _ => {}
    }
}

struct Connection {
    stream: Option<TcpStream>,
    addr: SocketAddr,
    tls: Option<Arc<Tls>>,
    router: Router,
    http: Arc<http1::Builder>,
    pace: Arc<Pace>,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run(mut self) {
        let Some(stream) = self.stream.take() else { return };
        let stream = Paced::new(stream, self.pace.clone());
        let mut peer = Peer { addr: self.addr, certificate: None };
        let Some(tls) = self.tls.take() else { return self.requests(stream, peer).await };
        let stream = tokio::select! {
            accepted = tls.acceptor().accept(stream).into_fallible() => match accepted {
                Ok(stream) => stream,
                Err((error, mut stream)) => {
                    tracing::debug!(%error, "TLS handshake");
                    // So that the client can read the alert that says why.
                    let _ = stream.shutdown().await;
                    return;
                }
            },
            () = self.shutdown.cancelled() => return,
        };
        self.pace.handshake_done();
        match tls::client_certificate(stream.get_ref().1) {
            Ok(certificate) => peer.certificate = certificate,
            Err(why) => {
                tracing::info!(why, "a client certificate that can't be used");
                return;
            }
        }
        self.requests(stream, peer).await;
    }

    async fn requests<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S, peer: Peer) {
        let service = Requests { router: self.router, peer, pace: self.pace };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let served = tokio::select! {
            biased;
            served = connection.as_mut() => served,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "connection");
        }
    }
}

/// Hands a connection's requests to the router.
struct Requests {
    router: Router,
    peer: Peer,
    pace: Arc<Pace>,
}

impl hyper::service::Service<Request<Incoming>> for Requests {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        self.pace.begin();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(self.peer.clone());
        let body = match hyper::body::Body::is_end_stream(&body) {
            true => Body::empty(),
            false => Body::new(Upload::new(body, self.pace.clone())),
        };
        let future = self.router.clone().call(Request::from_parts(parts, body));
        Answering { future, pace: self.pace.clone() }
    }
}

type RouterFuture = <Router as tower_service::Service<Request<Body>>>::Future;

/// An answer that is being made.
struct Answering {
    future: RouterFuture,
    pace: Arc<Pace>,
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.future).poll(cx))?;
        let pace = self.pace.clone();
        Poll::Ready(Ok(response.map(|body| Answer::new(body, pace))))
    }
}

#[cfg(test)]
pub(crate) mod tests;
