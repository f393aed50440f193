//! One cache service, and everything small that is said to it.

use crate::config::{CacheConfig, Patience};
use crate::error::ClientError;
use crate::http::{Answer, Ask, Transport, shown};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use preheat_image::api::{
    CollectReport, Contribution, ContributionList, FindMissing, MAX_CONTRIBUTION, Missing, NamespaceConfig, NamespaceList, NamespaceRow,
    ProfileReport, StatementList, Statistics,
};
use preheat_image::names::{Names, SignedNames};
use preheat_image::profile::{MAX_SIZE as MAX_PROFILE, Summary};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Root, SignedRoot};
use preheat_image::signed::{Document, SignedDocument};
use preheat_image::statement::Envelope;
use preheat_image::{Digest, Reference, media};
use reqwest::Url;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Digests in one question for what is missing; fewer than the service takes, so that a question stays well under a second.
const FIND_MISSING: usize = 5_000;
/// Most bytes of a list of statements.
const MAX_STATEMENT_LIST: usize = 16 * 1024 * 1024;
/// Most bytes of other answers in JSON.
const MAX_JSON: usize = 8 * 1024 * 1024;

/// The service's word for a profile to which nothing was contributed.
const NO_PROFILE: &str = "no-profile";
/// The service's word for a namespace that has no names yet.
const NO_NAMES: &str = "no-names";

/// One cache service. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Cache {
    transport: Arc<Transport>,
    patience: Arc<Patience>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("config", self.transport.config()).field("patience", &self.patience).finish()
    }
}

/// Names one state of something that changes; what a service calls an entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ETag(HeaderValue);

/// What has to be there for a write to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Absent,
    /// The state with this tag.
    Tag(ETag),
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is there now.
    Created,
    /// It was there, or took the place of what was there.
    WasThere,
}

/// The names of a namespace as a service shows them, parsed but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentNames {
    /// The snapshot.
    pub names: SignedNames,
    /// Its tag, for replacing it.
    pub etag: Option<ETag>,
}

/// How contributions are to be weighed; what is not said is as the service does it by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weighing {
    /// After so many seconds a contribution weighs half; 0: it never weighs less.
    pub half_life: Option<u64>,
    /// The most that one contributor can weigh, in requests; 0: there is no such bound.
    pub cap: Option<u64>,
}

impl Weighing {
    fn query(&self) -> Option<String> {
        let half_life = self.half_life.map(|seconds| format!("half-life={seconds}"));
        let cap = self.cap.map(|requests| format!("cap={requests}"));
        let all: Vec<String> = half_life.into_iter().chain(cap).collect();
        (!all.is_empty()).then(|| all.join("&"))
    }
}

/// A profile's summary as a service made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentSummary {
    /// The summary.
    pub summary: Summary,
    /// Its bytes.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// Its tag, for asking whether there is another.
    pub etag: Option<ETag>,
}

/// The revocation list as a service shows it, parsed but not verified.
pub type CurrentRevocations = SignedRevocations;

impl Cache {
    /// A cache by its settings. Asks nothing yet.
    ///
    /// # Errors
    /// [`ClientError::Configuration`] when the address or the token can't be right.
    pub fn new(config: CacheConfig) -> Result<Self, ClientError> {
        let patience = Arc::new(config.patience.clone());
        Ok(Self { transport: Arc::new(Transport::new(config)?), patience })
    }

    /// The same cache over the same connections, asked with another patience. The longest time to connect stays what the settings said.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        Self { transport: Arc::clone(&self.transport), patience: Arc::new(patience) }
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.transport.config().name
    }

    /// `host[:port]`, as in references.
    #[must_use]
    pub fn host(&self) -> &str {
        self.transport.host()
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &CacheConfig {
        self.transport.config()
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(crate) fn blob_url(&self, namespace: &str, digest: &Digest) -> Result<Url, ClientError> {
        Ok(self.transport.url(&[check(namespace)?, "cas", &digest.hex()]))
    }

    fn url(&self, segments: &[&str]) -> Url {
        self.transport.url(segments)
    }

    fn in_namespace(&self, namespace: &str, segments: &[&str]) -> Result<Url, ClientError> {
        Ok(self.url(&[&["v1", "namespaces", check(namespace)?], segments].concat()))
    }

    async fn call(&self, method: Method, url: Url, headers: HeaderMap, body: Bytes, max_answer: usize) -> Result<Answer, ClientError> {
        self.transport.call(&Ask { method, url, headers, body, max_answer }, &self.patience).await
    }

    async fn get(&self, url: Url, max_answer: usize) -> Result<Answer, ClientError> {
        self.call(Method::GET, url, HeaderMap::new(), Bytes::new(), max_answer).await
    }

    async fn get_json<D: DeserializeOwned>(&self, url: Url, max_answer: usize) -> Result<D, ClientError> {
        let answer = self.get(url.clone(), max_answer).await?;
        parse(&url, &answer.body)
    }

    async fn send_json(&self, method: Method, url: Url, body: &impl Serialize) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::Invalid(e.to_string()))?;
        self.call(method, url, content_type("application/json"), body.into(), MAX_JSON).await
    }

    /// Gets a signed document, parsed but not verified.
    async fn document<D: Document>(&self, url: Url) -> Result<Option<SignedDocument<D>>, ClientError> {
        let Some(answer) = found(self.get(url.clone(), D::MAX_SIZE).await)? else { return Ok(None) };
        SignedDocument::parse(&answer.body).map(Some).map_err(|e| ClientError::bad_format(&shown(&url), &e))
    }

    /// Which of `digests` are not there, in their order. The service keeps the others for at least an hour.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn find_missing(&self, namespace: &str, digests: &[Digest]) -> Result<Vec<Digest>, ClientError> {
        let url = self.in_namespace(namespace, &["find-missing"])?;
        let mut missing = Vec::new();
        for some in digests.chunks(FIND_MISSING) {
            let answer = self.send_json(Method::POST, url.clone(), &FindMissing { digests: some.to_vec() }).await?;
            let claimed: BTreeSet<Digest> = parse::<Missing>(&url, &answer.body)?.missing.into_iter().collect();
            // What was not asked for is not answered.
            missing.extend(some.iter().filter(|digest| claimed.contains(digest)));
        }
        Ok(missing)
    }

    /// The statements under a key, whoever signed them; none when there are none. What is no statement with this key is left out.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn entry(&self, namespace: &str, key: &Digest) -> Result<Vec<Envelope>, ClientError> {
        let url = self.url(&[check(namespace)?, "ac", &key.hex()]);
        self.statement_list(url, |envelope| envelope.unverified().key == *key).await
    }

    /// The statements whose first output is `subject`: an image's manifest or a code object. What is none of those is left out.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn statements(&self, namespace: &str, subject: &Digest) -> Result<Vec<Envelope>, ClientError> {
        let url = self.in_namespace(namespace, &["statements", &subject.hex()])?;
        self.statement_list(url, |envelope| envelope.unverified().outputs.first().is_some_and(|output| output.digest == *subject)).await
    }

    async fn statement_list(&self, url: Url, fits: impl Fn(&Envelope) -> bool) -> Result<Vec<Envelope>, ClientError> {
        let Some(answer) = found(self.get(url.clone(), MAX_STATEMENT_LIST).await)? else { return Ok(Vec::new()) };
        let list: StatementList = parse(&url, &answer.body)?;
        let envelopes = list.envelopes().map_err(|e| ClientError::bad_format(&shown(&url), &e))?;
        let parsed = envelopes.iter().filter_map(|bytes| match Envelope::parse(bytes) {
            Ok(envelope) if fits(&envelope) => Some(envelope),
            Ok(_) => {
                tracing::warn!(url = %shown(&url), "a statement about something else was left out");
                None
            }
            // One of a newer version must not hide the others.
            Err(error) => {
                tracing::warn!(url = %shown(&url), %error, "something that is no statement was left out");
                None
            }
        });
        Ok(parsed.collect())
    }

    /// Brings a statement, under its own key. All that it names has to be there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put_entry(&self, namespace: &str, envelope: &Envelope) -> Result<PutOutcome, ClientError> {
        let url = self.url(&[check(namespace)?, "ac", &envelope.unverified().key.hex()]);
        let answer = self.call(Method::PUT, url, content_type(media::STATEMENT), envelope.to_bytes().into(), MAX_JSON).await?;
        Ok(outcome(&answer))
    }

    /// The names of a namespace, if there are any yet; parsed, but not verified: see [`crate::trust`].
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::NotFound`] when there is no such namespace, or the caller may not read it.
    pub async fn names(&self, namespace: &str) -> Result<Option<CurrentNames>, ClientError> {
        let url = self.in_namespace(namespace, &["names"])?;
        let answer = match self.get(url.clone(), Names::MAX_SIZE).await {
            // Whoever may not see the names must not believe that there are none.
            Err(error @ ClientError::NotFound { .. }) if error.code() != Some(NO_NAMES) => return Err(error),
            answer => found(answer)?,
        };
        let Some(answer) = answer else { return Ok(None) };
        let names = SignedNames::parse(&answer.body).map_err(|e| ClientError::bad_format(&shown(&url), &e))?;
        Ok(Some(CurrentNames { names, etag: answer.etag.map(ETag) }))
    }

    /// The names of a namespace if they are not those with `tag`: a short question for who asks often. `Ok(None)` when nothing changed.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::NotFound`] when there are no names.
    pub async fn names_unless(&self, namespace: &str, tag: &ETag) -> Result<Option<CurrentNames>, ClientError> {
        let url = self.in_namespace(namespace, &["names"])?;
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, tag.0.clone())]);
        let answer = self.call(Method::GET, url.clone(), headers, Bytes::new(), Names::MAX_SIZE).await?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let names = SignedNames::parse(&answer.body).map_err(|e| ClientError::bad_format(&shown(&url), &e))?;
        Ok(Some(CurrentNames { names, etag: answer.etag.map(ETag) }))
    }

    /// An earlier snapshot of names by its number, parsed but not verified.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn names_number(&self, namespace: &str, number: u64) -> Result<Option<SignedNames>, ClientError> {
        self.document(self.in_namespace(namespace, &["names", &number.to_string()])?).await
    }

    /// Replaces the names of a namespace, if they are still as expected.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::Conflict`] when somebody else was faster.
    pub async fn put_names(&self, namespace: &str, names: &SignedNames, expect: &Expect) -> Result<(), ClientError> {
        let url = self.in_namespace(namespace, &["names"])?;
        let mut headers = content_type(media::ENVELOPE);
        match expect {
            Expect::Absent => headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*")),
            Expect::Tag(tag) => headers.insert(IF_MATCH, tag.0.clone()),
        };
        match self.call(Method::PUT, url, headers, names.to_bytes().into(), MAX_JSON).await {
            Ok(_) => Ok(()),
            // An earlier try may have arrived, and only its answer was lost.
            Err(error @ ClientError::Conflict { .. }) => match self.names(namespace).await {
                Ok(Some(current)) if current.names.digest() == names.digest() => Ok(()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The newest root that the service has; parsed, but not verified: see [`crate::trust`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn root(&self) -> Result<Option<SignedRoot>, ClientError> {
        self.document(self.url(&["v1", "root"])).await
    }

    /// A root by its number, parsed but not verified.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn root_number(&self, number: u64) -> Result<Option<SignedRoot>, ClientError> {
        let url = self.url(&["v1", "root", &number.to_string()]);
        let root: Option<SignedDocument<Root>> = self.document(url.clone()).await?;
        match root {
            Some(root) if root.unverified().number != number => {
                Err(ClientError::BadAnswer { url: shown(&url), what: format!("it has number {}", root.unverified().number) })
            }
            root => Ok(root),
        }
    }

    /// Brings a root, the first or the next.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put_root(&self, root: &SignedRoot) -> Result<(), ClientError> {
        match self.call(Method::PUT, self.url(&["v1", "root"]), content_type(media::ENVELOPE), root.to_bytes().into(), MAX_JSON).await {
            Ok(_) => Ok(()),
            Err(error @ ClientError::Conflict { .. }) => match self.root_number(root.unverified().number).await {
                Ok(Some(there)) if there.digest() == root.digest() => Ok(()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The revocation list, if there is one; parsed, but not verified: see [`crate::trust`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn revocations(&self) -> Result<Option<CurrentRevocations>, ClientError> {
        self.document::<RevocationList>(self.url(&["v1", "revocations"])).await
    }

    /// Replaces the revocation list.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put_revocations(&self, list: &SignedRevocations) -> Result<(), ClientError> {
        let body = list.to_bytes().into();
        match self.call(Method::PUT, self.url(&["v1", "revocations"]), content_type(media::ENVELOPE), body, MAX_JSON).await {
            Ok(_) => Ok(()),
            Err(error @ ClientError::Conflict { .. }) => match self.revocations().await {
                Ok(Some(there)) if there.digest() == list.digest() => Ok(()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The namespaces that the caller may read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn namespaces(&self) -> Result<Vec<NamespaceRow>, ClientError> {
        let list: NamespaceList = self.get_json(self.url(&["v1", "namespaces"]), MAX_JSON).await?;
        Ok(list.namespaces)
    }

    /// How a namespace is set up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn namespace(&self, namespace: &str) -> Result<Option<NamespaceConfig>, ClientError> {
        let url = self.in_namespace(namespace, &[])?;
        let Some(answer) = found(self.get(url.clone(), MAX_JSON).await)? else { return Ok(None) };
        parse::<NamespaceRow>(&url, &answer.body).map(|row| Some(row.config))
    }

    /// Makes a namespace, or changes how it is set up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put_namespace(&self, namespace: &str, config: &NamespaceConfig) -> Result<PutOutcome, ClientError> {
        config.check(namespace).map_err(ClientError::Invalid)?;
        let answer = self.send_json(Method::PUT, self.in_namespace(namespace, &[])?, config).await?;
        Ok(outcome(&answer))
    }

    /// Removes a namespace that has no names.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_namespace(&self, namespace: &str) -> Result<(), ClientError> {
        let url = self.in_namespace(namespace, &[])?;
        self.call(Method::DELETE, url, HeaderMap::new(), Bytes::new(), MAX_JSON).await.map(drop)
    }

    /// What the service holds, as far as the caller may know.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn statistics(&self) -> Result<Statistics, ClientError> {
        self.get_json(self.url(&["v1", "statistics"]), MAX_JSON).await
    }

    /// Removes from a namespace what nothing holds, or only says what that would be. One try: it may take long.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn collect(&self, namespace: &str, dry_run: bool) -> Result<CollectReport, ClientError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Collect {
            dry_run: bool,
        }
        let url = self.in_namespace(namespace, &["collect"])?;
        let hour = std::time::Duration::from_secs(3600);
        let slow = self.with_patience(Patience { answer: hour, total: hour, attempts: 1, ..self.patience().clone() });
        let answer = slow.send_json(Method::POST, url.clone(), &Collect { dry_run }).await?;
        parse(&url, &answer.body)
    }

    /// Adds a contribution to the profile of a source: the bytes of a profile that has it alone. The same bytes again change nothing.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::Refused`] when they are no such profile.
    pub async fn add_contribution(&self, namespace: &str, source: &Digest, bytes: Bytes) -> Result<PutOutcome, ClientError> {
        if bytes.len() > MAX_CONTRIBUTION {
            return Err(ClientError::Invalid(format!("a contribution of {} bytes; at most {MAX_CONTRIBUTION} are taken", bytes.len())));
        }
        let url = self.in_namespace(namespace, &["profiles", &source.hex()])?;
        let answer = self.call(Method::POST, url, content_type("application/octet-stream"), bytes, MAX_JSON).await?;
        Ok(outcome(&answer))
    }

    /// What the contributions to the profile of a source say together, as the service adds them up; none where nothing was contributed. It is the
    /// service that says so: a summary steers speed and never meaning.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::NotFound`] when there is no such namespace, or the caller may not read it.
    pub async fn profile_summary(
        &self,
        namespace: &str,
        source: &Digest,
        weighing: &Weighing,
    ) -> Result<Option<CurrentSummary>, ClientError> {
        self.summary(namespace, source, weighing, HeaderMap::new()).await
    }

    /// The same, if it is not the one with `tag`: a short question for who asks often. `Ok(None)` when nothing changed.
    ///
    /// # Errors
    /// As [`Self::profile_summary`], and [`ClientError::NotFound`] where nothing was contributed.
    pub async fn profile_summary_unless(
        &self,
        namespace: &str,
        source: &Digest,
        weighing: &Weighing,
        tag: &ETag,
    ) -> Result<Option<CurrentSummary>, ClientError> {
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, tag.0.clone())]);
        match self.summary(namespace, source, weighing, headers).await {
            Ok(Some(summary)) if summary.etag.as_ref() == Some(tag) => Ok(None),
            answer => answer,
        }
    }

    async fn summary(
        &self,
        namespace: &str,
        source: &Digest,
        weighing: &Weighing,
        headers: HeaderMap,
    ) -> Result<Option<CurrentSummary>, ClientError> {
        let mut url = self.in_namespace(namespace, &["profiles", &source.hex(), "summary"])?;
        url.set_query(weighing.query().as_deref());
        let unless = headers.contains_key(IF_NONE_MATCH);
        let answer = self.slow().call(Method::GET, url.clone(), headers, Bytes::new(), MAX_PROFILE).await;
        let answer = if unless { answer.map(Some) } else { contributed(answer) }?;
        let Some(answer) = answer.filter(|answer| answer.status != StatusCode::NOT_MODIFIED) else { return Ok(None) };
        let summary = Summary::parse(&answer.body).map_err(|e| ClientError::bad_format(&shown(&url), &e))?;
        if summary.source() != *source {
            return Err(ClientError::BadAnswer { url: shown(&url), what: format!("it is of {}", summary.source()) });
        }
        Ok(Some(CurrentSummary { digest: Digest::of(&answer.body), summary, bytes: answer.body, etag: answer.etag.map(ETag) }))
    }

    /// How that summary came about; none where nothing was contributed.
    ///
    /// # Errors
    /// As [`Self::profile_summary`].
    pub async fn profile_report(
        &self,
        namespace: &str,
        source: &Digest,
        weighing: &Weighing,
    ) -> Result<Option<ProfileReport>, ClientError> {
        let mut url = self.in_namespace(namespace, &["profiles", &source.hex(), "summary.json"])?;
        url.set_query(weighing.query().as_deref());
        let Some(answer) = contributed(self.slow().get(url.clone(), MAX_JSON).await)? else { return Ok(None) };
        parse(&url, &answer.body).map(Some)
    }

    /// The same cache for what the service may have to make first.
    fn slow(&self) -> Self {
        let Patience { answer, total, .. } = *self.patience();
        let longer = |time: std::time::Duration| time.max(std::time::Duration::from_secs(120));
        self.with_patience(Patience { answer: longer(answer), total: longer(total), ..self.patience().clone() })
    }

    /// Removes a contribution, so that it counts no more. One that is not there is removed already.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_contribution(&self, namespace: &str, source: &Digest, digest: &Digest) -> Result<(), ClientError> {
        let url = self.in_namespace(namespace, &["profiles", &source.hex(), &digest.hex()])?;
        self.call(Method::DELETE, url, HeaderMap::new(), Bytes::new(), MAX_JSON).await.map(drop)
    }

    /// The contributions to the profile of a source.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn contributions(&self, namespace: &str, source: &Digest) -> Result<Vec<Contribution>, ClientError> {
        let mut all = Vec::new();
        let mut after: Option<Digest> = None;
        loop {
            let mut url = self.in_namespace(namespace, &["profiles", &source.hex()])?;
            url.set_query(after.map(|after| format!("after={}", after.hex())).as_deref());
            let Some(answer) = found(self.get(url.clone(), MAX_JSON).await)? else { return Ok(all) };
            let list: ContributionList = parse(&url, &answer.body)?;
            all.extend(list.contributions);
            match list.next {
                // Always onward, whatever the service says: so it ends.
                Some(next) if after.is_none_or(|after| next > after) => after = Some(next),
                _ => return Ok(all),
            }
        }
    }

    /// One contribution by its digest.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::DigestMismatch`] when the service has other bytes.
    pub async fn contribution(&self, namespace: &str, source: &Digest, digest: &Digest) -> Result<Bytes, ClientError> {
        let url = self.in_namespace(namespace, &["profiles", &source.hex(), &digest.hex()])?;
        let answer = self.get(url.clone(), MAX_CONTRIBUTION).await?;
        let found = Digest::of(&answer.body);
        if found == *digest { Ok(answer.body) } else { Err(ClientError::DigestMismatch { url: shown(&url), wanted: *digest, found }) }
    }
}

/// An answer, or nothing where nothing was contributed; not to be seen is something else.
fn contributed(answer: Result<Answer, ClientError>) -> Result<Option<Answer>, ClientError> {
    match answer {
        Err(error @ ClientError::NotFound { .. }) if error.code() != Some(NO_PROFILE) => Err(error),
        answer => found(answer),
    }
}

/// A namespace that is one: no path leads out of it.
fn check(namespace: &str) -> Result<&str, ClientError> {
    if Reference::is_namespace(namespace) {
        Ok(namespace)
    } else {
        Err(ClientError::Invalid(format!("`{}` can't be a namespace", namespace.escape_default())))
    }
}

fn content_type(media: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media)), (ACCEPT, HeaderValue::from_static("application/json"))])
}

fn outcome(answer: &Answer) -> PutOutcome {
    if answer.status == StatusCode::CREATED { PutOutcome::Created } else { PutOutcome::WasThere }
}

/// An answer, or nothing when it is not there.
fn found(answer: Result<Answer, ClientError>) -> Result<Option<Answer>, ClientError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse<D: DeserializeOwned>(url: &Url, body: &[u8]) -> Result<D, ClientError> {
    serde_json::from_slice(body).map_err(|e| ClientError::BadAnswer { url: shown(url), what: e.to_string() })
}
