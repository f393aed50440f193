//! Answering HTTP requests with components that export `wasi:http/incoming-handler`.

use crate::error::{cause, of_call};
use crate::loaded::{Loaded, Pre};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use preheat_call::{Request, RunError};
use std::convert::Infallible;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};

/// Most bytes of an answer's body unless the request says otherwise.
const MAX_RESPONSE: usize = 64 << 20;

impl Loaded {
    /// Lets the function answer one HTTP request, in an instance of its own. The answer's body is gathered whole; what the guest does
    /// after answering still happens before this returns.
    ///
    /// # Errors
    /// When the function is no HTTP handler, traps, answers with an error, or its deadline passes.
    pub async fn http(&self, context: &Request, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, RunError> {
        let Pre::Component(pre) = &self.pre else {
            return Err(RunError::Usage("the image is a core module, not an HTTP handler".into()));
        };
        let pre = ProxyPre::new(pre.clone()).map_err(|error| RunError::Link(cause(error)))?;
        let mut store = self.store(context)?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let request = request.map(|body| Full::new(body).map_err(|never: Infallible| -> ErrorCode { match never {} }));
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request).map_err(|error| RunError::Host(cause(error)))?;
        let answer = store.data_mut().http().new_response_outparam(sender).map_err(|error| RunError::Host(cause(error)))?;

        let guest = async {
            let proxy = pre.instantiate_async(&mut store).await.map_err(|error| RunError::Instantiate(cause(error)))?;
            proxy.wasi_http_incoming_handler().call_handle(&mut store, request, answer).await.map_err(of_call)?;
            // With the store goes the guest's end of the answer, so that a guest that gave none is noticed.
            drop(store);
            Ok::<(), RunError>(())
        };
        let collect = async {
            let Ok(response) = receiver.await else { return Ok::<_, RunError>(None) };
            let response = response.map_err(|code| RunError::Host(format!("the function answered with error {code:?}").into()))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, context.max_response.unwrap_or(MAX_RESPONSE)).collect().await;
            let body = body.map_err(|error| RunError::Host(format!("the answer's body broke off: {error}").into()))?;
            Ok(Some(http::Response::from_parts(parts, body.to_bytes())))
        };
        // Both at once: a guest may wait until its answer is taken.
        let both = async {
            let (guest, response) = tokio::join!(guest, collect);
            guest?;
            response?.ok_or_else(|| RunError::Host("the function ended without an answer".into()))
        };
        self.within(context.timeout, both).await
    }
}
