//! What the host keeps for one instance.

use crate::error::cause;
use crate::streams;
use preheat_call::{Request, RunError};
use preheat_image::manifest::Function;
use std::future::Future;
use wasmtime::{StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// Most instances, memories and tables that one call may make; components consist of several.
pub(crate) const MAX_PARTS: usize = 100;

pub(crate) struct State {
    pub(crate) wasi: WasiP1Ctx,
    http: WasiHttpCtx,
    network: NoNetwork,
    pub(crate) limits: StoreLimits,
}

impl State {
    /// Opens nothing and allocates little that the request does not ask for.
    pub(crate) fn new(function: &Function, request: &Request, blocking: bool) -> Result<Self, RunError> {
        let mut wasi = WasiCtx::builder();
        wasi.allow_blocking_current_thread(blocking);
        wasi.arg(request.program.as_deref().unwrap_or(&function.name));
        wasi.args(&function.args);
        wasi.args(&request.args);
        for (name, value) in function.env.iter().filter(|(name, _)| !request.env.contains_key(*name)).chain(&request.env) {
            wasi.env(name, value);
        }
        streams::apply(request, &mut wasi).map_err(|error| RunError::Usage(format!("can't use the process's streams: {error}")))?;
        for dir in &request.dirs {
            let perms = if dir.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(&dir.host, &dir.guest, perms)
                .map_err(|source| RunError::Directory { path: dir.host.display().to_string(), why: cause(source) })?;
        }
        let mut limits = StoreLimitsBuilder::new().instances(MAX_PARTS).memories(MAX_PARTS).tables(MAX_PARTS);
        if let Some(max) = request.max_memory {
            limits = limits.memory_size(max);
        }
        Ok(Self { wasi: wasi.build_p1(), http: WasiHttpCtx::new(), network: NoNetwork, limits: limits.build() })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.network, table: self.wasi.ctx().table, ctx: &mut self.http }
    }
}

/// Refuses every request that a guest wants to send: nobody granted it a network.
pub(crate) struct NoNetwork;

type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), HttpError>> + Send>);

impl WasiHttpHooks for NoNetwork {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _body_done: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, HttpError>> + Send> {
        Box::new(std::future::ready(Err(ErrorCode::HttpRequestDenied.into())))
    }
}
