//! Puts the service together, runs it, ends it.

use crate::auth::Auth;
use crate::budget::Budget;
use crate::config::{Config, ServeArgs};
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
use crate::state::App;
use crate::storage::memory::Memory;
use crate::storage::{Blobs, Meta};
use crate::trust::ServerTrust;
use crate::verified::Verified;
use crate::{access_log, listen, routes};
use anyhow::Context as _;
use axum::middleware;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A service that runs.
pub struct Server {
    addr: SocketAddr,
    stopping: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Opens the storage and listens. Requests are answered when this returns.
    ///
    /// # Errors
    /// When the storage can't be opened or the address is taken.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(config.listen).await.with_context(|| format!("can't listen on {}", config.listen))?;
        let addr = listener.local_addr()?;
        let memory = Memory::default();
        let blobs: Arc<dyn Blobs> = Arc::new(memory.clone());
        let meta: Arc<dyn Meta> = Arc::new(memory);
        let stopping = CancellationToken::new();
        let app = Arc::new(App {
            blobs,
            namespaces: Arc::new(Namespaces::new(meta.clone())),
            auth: Arc::new(Auth),
            leases: Arc::new(Leases),
            trust: Arc::new(ServerTrust { meta: meta.clone() }),
            metrics: Arc::new(Metrics::new()),
            budget: Arc::new(Budget::new(config.limits.bytes_in_flight)),
            verified: Arc::new(Verified::new(config.limits.verified_bytes, Duration::from_secs(config.limits.verified_seconds))),
            meta,
            stopping: stopping.clone(),
            config: Arc::new(config),
        });
        let router = routes::router(app.clone()).layer(middleware::from_fn_with_state(app.clone(), access_log::around));
        let (tls, limits) = (app.config.tls.clone(), app.config.connections.clone());
        let task = tokio::spawn(listen::serve(listener, tls, router, limits, stopping.clone()));
        Ok(Self { addr, stopping, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it: takes no more connections, lets running requests finish.
    ///
    /// # Errors
    /// When the listener failed.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.stopping.cancel();
        Ok(self.task.await??)
    }
}

/// Runs the service until SIGTERM or SIGINT; the one line on standard output says where it listens.
///
/// # Errors
/// When it can't start.
pub fn run(args: ServeArgs, json: bool) -> anyhow::Result<()> {
    let config = args.config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::start(config).await?;
        let url = format!("http://{}", server.addr());
        if json {
            println!("{}", serde_json::json!({ "listening": url }));
        } else {
            println!("listening on {url}");
        }
        tokio::signal::ctrl_c().await?;
        server.shutdown().await
    })
}
