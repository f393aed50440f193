//! What happens around every request: a trace id, who calls, the time limit, and when the last byte is out, numbers and a line in the log.
//!
//! The line has no query, no header and no token in it, and of the path only the template and the namespace.

use crate::auth::Peer;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::state::{App, State};
use crate::storage::Namespace;
use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use std::fmt::Write as _;
use std::hash::BuildHasher as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The status, in log and metrics, of a request whose client did not wait for the answer. It is never sent.
const CLIENT_GONE: u16 = 499;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The middleware.
pub(crate) async fn around(axum::extract::State(app): State, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let mut deadline = started + Duration::from_secs(app.config.limits.request_seconds);
    let trace = Trace::of(request.headers());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut line = Line {
        app: app.clone(),
        started,
        method: method(request.method()),
        namespace: route.as_ref().and_then(|route| namespace(route.as_str(), request.uri().path())),
        route,
        trace,
        caller: None,
        status: None,
        received: Arc::default(),
        sent: 0,
        expected: None,
        ended: false,
    };
    app.metrics.requests_running.inc();
    if !request.body().is_end_stream() {
        let received = line.received.clone();
        request = request.map(|body| {
            Body::new(body.map_frame(move |frame| {
                received.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
                frame
            }))
        });
    }
    let answer = async {
        let peer = request.extensions().get::<Peer>().ok_or_else(|| ApiError::unauthorized("no connection"))?;
        let caller = app.auth.authenticate(request.headers(), peer)?;
        line.caller = Some(caller.name().to_owned());
        request.extensions_mut().insert(caller);
        Ok::<_, ApiError>(next.run(request).await)
    };
    let mut response = match tokio::time::timeout_at(deadline.into(), answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => error.into_response(),
        Err(_) => {
            // To say so takes a moment more.
            deadline = Instant::now() + Duration::from_secs(5);
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "the request took too long").into_response()
        }
    };
    line.status = Some(response.status());
    let headers = response.headers_mut();
    for (name, value) in [(REQUEST_ID, line.trace.request_id()), (TRACEPARENT, line.trace.traceparent())] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    line.expected = match line.method {
        "HEAD" => Some(0),
        _ => headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).or(response.body().size_hint().exact()),
    };
    response.map(|body| Body::new(Watched { body, line, deadline }))
}

/// The methods that this service knows; others are all counted as one, so that nobody can make series without end.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The namespace in a path that fits a route: the first word, or that after `/v1/namespaces/`.
fn namespace(route: &str, path: &str) -> Option<Namespace> {
    let path = if route.starts_with("/v1/") { path.strip_prefix("/v1/namespaces/")? } else { path.strip_prefix('/')? };
    Namespace::new(path.split('/').next()?)
}

/// W3C trace context: the caller's trace if it sent one, else a new one.
struct Trace {
    trace: u128,
    span: u64,
    flags: u8,
}

impl Trace {
    fn of(headers: &HeaderMap) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        static RANDOM: LazyLock<std::hash::RandomState> = LazyLock::new(std::hash::RandomState::new);
        // Ids have to differ; nothing rests on nobody guessing them.
        let random = || RANDOM.hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
        let (trace, flags) = headers
            .get(&TRACEPARENT)
            .and_then(|value| Self::parse(value.to_str().ok()?))
            .unwrap_or_else(|| (u128::from(random()) << 64 | u128::from(random()), 0));
        Self { trace, span: random().max(1), flags }
    }

    /// Trace id and flags of version 00.
    fn parse(text: &str) -> Option<(u128, u8)> {
        let fields: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags] = fields[..] else { return None };
        let hex = |text: &str, len: usize| text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if version != "00" || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        Some((trace, u8::from_str_radix(flags, 16).ok()?))
    }

    fn request_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    fn traceparent(&self) -> String {
        let mut text = String::with_capacity(55);
        // Writing to a string does not fail.
        let _ = write!(text, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags);
        text
    }
}

/// A line of the log, written when it is dropped: when the last byte of the answer is out, or there is nobody left to send it to.
struct Line {
    app: Arc<App>,
    started: Instant,
    method: &'static str,
    route: Option<MatchedPath>,
    namespace: Option<Namespace>,
    trace: Trace,
    caller: Option<String>,
    /// None until there is an answer.
    status: Option<StatusCode>,
    received: Arc<AtomicU64>,
    sent: u64,
    /// Bytes that the answer has, where that is known beforehand.
    expected: Option<u64>,
    /// Whether the end of the answer was reached.
    ended: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        // Without an answer either the client went away, which is not our failure, or something here broke.
        let status = self.status.map_or(if std::thread::panicking() { 500 } else { CLIENT_GONE }, |status| status.as_u16());
        let route = self.route.as_ref().map_or("other", MatchedPath::as_str);
        let metrics: &Metrics = &self.app.metrics;
        metrics.requests_running.dec();
        metrics.bytes_sent.inc_by(self.sent);
        metrics.request(self.method, route, status, elapsed.as_secs_f64());
        if self.app.config.log.access {
            tracing::info!(
                target: "access",
                trace = %self.trace.request_id(),
                method = self.method,
                route,
                namespace = self.namespace.as_ref().map(Namespace::as_str),
                status,
                received = self.received.load(Ordering::Relaxed),
                sent = self.sent,
                whole = self.ended || self.expected == Some(self.sent),
                ms = elapsed.as_secs_f64() * 1000.0,
                caller = self.caller.as_deref(),
            );
        }
    }
}

/// The body of an answer with its line.
struct Watched {
    body: Body,
    line: Line,
    deadline: Instant,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        // A client that takes nothing does not get here; the listener ends those.
        if Instant::now() > this.deadline {
            return Poll::Ready(Some(Err(axum::Error::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))));
        }
        let polled = Pin::new(&mut this.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.line.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            Poll::Ready(None) => this.line.ended = true,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_trace_is_taken_over() {
        let mut headers = HeaderMap::new();
        let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        headers.insert(TRACEPARENT, HeaderValue::from_static(sent));
        let trace = Trace::of(&headers);
        assert_eq!(trace.request_id(), "0af7651916cd43dd8448eb211c80319c");
        let answered = trace.traceparent();
        assert!(answered.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && answered.ends_with("-01"), "{answered}");
        assert_ne!(answered, sent, "the span is the service's own");
    }

    #[test]
    fn what_is_no_trace_gets_a_new_one() {
        for bad in [
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "x",
        ] {
            assert_eq!(Trace::parse(bad), None, "{bad}");
        }
        let (one, other) = (Trace::of(&HeaderMap::new()), Trace::of(&HeaderMap::new()));
        assert_ne!(one.trace, other.trace);
        assert_eq!(one.traceparent().len(), 55);
    }

    #[test]
    fn the_namespace_is_where_the_route_says() {
        let of = |route, path| namespace(route, path).map(|namespace| namespace.to_string());
        assert_eq!(of("/{namespace}/cas/{digest}", "/team/cas/00"), Some("team".into()));
        assert_eq!(of("/v1/namespaces/{namespace}/names", "/v1/namespaces/team/names"), Some("team".into()));
        assert_eq!(of("/v1/root", "/v1/root"), None);
        assert_eq!(of("/{namespace}/cas/{digest}", "/..%2f/cas/00"), None);
    }
}
