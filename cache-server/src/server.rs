//! Puts the service together, runs it, ends it.

use crate::auth::{Auth, tokens};
use crate::budget::Budget;
use crate::clock::{Clock, SystemClock};
use crate::collect::Collector;
use crate::config::{Config, ServeArgs};
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
use crate::state::App;
use crate::storage::bucket::Bucket;
use crate::storage::leased::Leased;
use crate::storage::local::{LocalBlobs, LocalOptions};
use crate::storage::redb::RedbMeta;
use crate::storage::{Blobs, Expect, Meta, Namespace, PutError, StorageError};
use crate::tls::Tls;
use crate::trust::ServerTrust;
use crate::verified::Verified;
use crate::{access_log, listen, log, routes};
use anyhow::Context as _;
use axum::middleware;
use preheat_image::api::{NamespaceConfig, NamespaceKind};
use preheat_image::reference::DEFAULT_NAMESPACE;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A service that runs.
pub struct Server {
    addr: SocketAddr,
    /// Made by this start, because there were no tokens.
    admin_token: Option<String>,
    stopping: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Opens the storage and listens. Requests are answered when this returns.
    ///
    /// # Errors
    /// When the storage can't be opened or the address is taken.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        config.limits.check().and_then(|()| config.connections.check()).map_err(anyhow::Error::msg)?;
        let open_auth = || Auth::open(&config.auth, &config.tokens_file()).map_err(anyhow::Error::msg);
        let mut auth = open_auth()?;
        let tls = config.tls.as_ref().map(|tls| Tls::open(tls).map(Arc::new)).transpose().map_err(anyhow::Error::msg)?;
        let listener = TcpListener::bind(config.listen).await.with_context(|| format!("can't listen on {}", config.listen))?;
        let addr = listener.local_addr()?;
        let (storage, meta) = open_storage(&config).await?;
        make_namespaces(&config, meta.as_ref()).await?;
        let trust = ServerTrust::new(meta.clone());
        if let Some(path) = &config.root {
            let bytes = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
            trust.begin_with(&bytes).await.with_context(|| format!("{} is no root to begin with", path.display()))?;
        }
        // When all else went well: what is made here is shown once.
        let admin_token = tokens::first(&config.tokens_file())?;
        if admin_token.is_some() {
            auth = open_auth()?;
        }
        let stopping = CancellationToken::new();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = Arc::new(Metrics::new());
        let leases = Leases::start(meta.clone(), clock.clone(), config.collect.lease_seconds, config.bucket.is_none()).await?;
        let collector =
            Collector::new(storage.clone(), meta.clone(), leases.clone(), clock, metrics.clone(), config.collect.clone(), stopping.clone());
        let app = Arc::new(App {
            blobs: Arc::new(Leased::new(storage, leases.clone())),
            namespaces: Arc::new(Namespaces::new(meta.clone())),
            auth: Arc::new(auth),
            leases,
            collector: Arc::new(collector),
            trust: Arc::new(trust),
            metrics,
            budget: Arc::new(Budget::new(config.limits.bytes_in_flight)),
            verified: Arc::new(Verified::new(config.limits.verified_bytes, Duration::from_secs(config.limits.verified_seconds))),
            merging: Semaphore::new(1),
            meta,
            stopping: stopping.clone(),
            config: Arc::new(config),
        });
        let router = routes::router(app.clone()).layer(middleware::from_fn_with_state(app.clone(), access_log::around));
        let limits = app.config.connections.clone();
        let (served, ended) = (stopping.clone(), stopping.clone());
        // Leases are written until the last request is answered, and then once more.
        let answered = CancellationToken::new();
        let leasing = tokio::spawn(app.leases.clone().run(answered.clone()));
        let collecting = tokio::spawn(app.collector.clone().run());
        let task = tokio::spawn(async move {
            let result = listen::serve(listener, tls, router, limits, served).await;
            // Whatever made it end, the rest of the service ends too.
            ended.cancel();
            // A removal that was begun is finished first.
            let _ = collecting.await;
            answered.cancel();
            let _ = leasing.await;
            result
        });
        Ok(Self { addr, admin_token: admin_token.map(|secret| secret.expose().to_owned()), stopping, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The token that this start made, because there was no file of tokens: it may do everything, and is nowhere else but here.
    #[must_use]
    pub fn admin_token(&self) -> Option<&str> {
        self.admin_token.as_deref()
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

/// Opens the bucket, or the storage in the directory.
async fn open_storage(config: &Config) -> anyhow::Result<(Arc<dyn Blobs>, Arc<dyn Meta>)> {
    if let Some(settings) = &config.bucket {
        let bucket = Bucket::open(settings)?;
        bucket.check_conditional_writes().await.with_context(|| format!("the bucket {} can't be used", settings.url))?;
        let tier = config.directory.join("tier");
        let blobs = bucket.blobs(settings, &tier).with_context(|| format!("can't use {}", tier.display()))?;
        return Ok((Arc::new(blobs), Arc::new(bucket.meta())));
    }
    let directory = config.directory.clone();
    let options = LocalOptions {
        hard_free_bytes: config.limits.min_free_bytes,
        buffer_bytes: usize::try_from(config.limits.bytes_to_write).unwrap_or(usize::MAX),
    };
    let open = move || Ok::<_, StorageError>((LocalBlobs::open(&directory, options)?, RedbMeta::open(&directory)?));
    let (blobs, meta) = tokio::task::spawn_blocking(open).await??;
    let leftovers = blobs.clone();
    tokio::spawn(async move {
        match leftovers.remove_leftovers().await {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "what broken uploads of an earlier run left is removed"),
            Err(error) => tracing::warn!(%error, "what broken uploads left can't be removed"),
        }
    });
    Ok((Arc::new(blobs), Arc::new(meta)))
}

/// Makes the namespaces of the settings that are not there yet; without any at all, `default`.
async fn make_namespaces(config: &Config, meta: &dyn Meta) -> anyhow::Result<()> {
    let mut wanted = config.namespaces.clone();
    if wanted.is_empty() && meta.list("ns/").await?.is_empty() {
        wanted.insert(DEFAULT_NAMESPACE.to_owned(), NamespaceConfig::new(NamespaceKind::Preheat));
    }
    for (name, namespace) in wanted {
        namespace
            .check(&name)
            .and_then(|()| Namespace::new(&name).ok_or_else(|| "the name is reserved".into()))
            .map_err(|why| anyhow::anyhow!("namespace `{name}` of the settings: {why}"))?;
        let value = serde_json::to_vec(&namespace)?;
        match meta.put(&format!("ns/{name}"), value.into(), Expect::Absent).await {
            // What is there may have been changed since: it stays.
            Ok(_) | Err(PutError::Conflict) => {}
            Err(PutError::Storage(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Runs the service until SIGTERM or SIGINT; the one line on standard output says where it listens. After the first signal running requests
/// finish; a second one ends the service at once.
///
/// # Errors
/// When it can't start, or did not end as it should.
pub fn run(args: ServeArgs, json: bool) -> anyhow::Result<()> {
    let config = args.config()?;
    let _log = log::begin(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(config, json));
    // What still runs now was given up: nothing that was acknowledged depends on it.
    runtime.shutdown_background();
    ended
}

async fn serve(config: Config, json: bool) -> anyhow::Result<()> {
    // Before the start, so that no signal is lost.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let server = Server::start(config).await?;
    let url = format!("{scheme}://{}", server.addr());
    if let Some(token) = server.admin_token() {
        eprintln!("There were no tokens, so here is one that may do everything. It is not shown again:\n{token}");
    }
    say_where(&url, json).context("can't write to standard output")?;
    let asked = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let mut asked = asked;
    let stopping = server.stopping.clone();
    tokio::select! {
        () = asked() => tracing::info!("asked to stop: finishing what runs"),
        // The listener failed.
        () = stopping.cancelled() => {}
    }
    tokio::select! {
        ended = server.shutdown() => ended,
        () = asked() => anyhow::bail!("asked to stop a second time: what ran was not finished"),
    }
}

fn say_where(url: &str, json: bool) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match json {
        true => writeln!(out, "{}", serde_json::json!({ "listening": url })),
        false => writeln!(out, "listening on {url}"),
    }?;
    out.flush()
}
