//! Connections: accepts them, limits them, ends them.

use crate::auth::Peer;
use axum::Router;
use axum::extract::Request;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// TLS.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Authorities of client certificates, PEM.
    pub client_authorities: Option<PathBuf>,
}

/// Limits of connections.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ConnectionLimits {
    /// Most connections at once.
    pub max_connections: usize,
    /// How long running requests may take to finish at shutdown, in seconds.
    pub drain_seconds: u64,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { max_connections: 4096, drain_seconds: 30 }
    }
}

/// Serves until `shutdown`, then lets running requests finish.
pub(crate) async fn serve(
    listener: TcpListener,
    _tls: Option<TlsConfig>,
    router: Router,
    _limits: ConnectionLimits,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    use hyper_util::rt::{TokioIo, TokioTimer};
    use hyper_util::server::graceful::GracefulShutdown;
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, addr) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = shutdown.cancelled() => break,
        };
        stream.set_nodelay(true)?;
        let router = router.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(Peer { addr, certificate: None });
            let mut router = router.clone();
            async move { tower_service::Service::call(&mut router, request).await }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
    graceful.shutdown().await;
    Ok(())
}
