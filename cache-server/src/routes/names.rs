//! `/v1/namespaces/{namespace}/names`: the signed names of a namespace, and those before them.

use super::documents::{envelope, or_drain, read_document, replaced};
use super::{Ns, NsNumber};
use crate::access::{authorize, layers};
use crate::auth::{Caller, Right};
use crate::error::ApiError;
use crate::records::{names_key, old_names_key};
use crate::state::{App, State};
use crate::statements::Statements;
use crate::storage::Namespace;
use crate::trust::{Held, Replaced, Trusted, now, replace};
use axum::body::Body;
use axum::response::Response;
use axum::{Router, routing};
use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use preheat_image::api::{NamespaceConfig, NamespaceKind};
use preheat_image::names::{Names, SignedNames};
use preheat_image::root::Role;
use preheat_image::signed::Document as _;
use preheat_image::{Digest, media};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Digests that are looked for at once.
const BATCH: usize = 1000;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/namespaces/{namespace}/names", routing::get(get).put(put))
        .route("/v1/namespaces/{namespace}/names/{number}", routing::get(get_old))
}

fn missing() -> ApiError {
    ApiError::not_found("no-names", "the namespace has no such names snapshot")
}

/// Names are for images, which raw namespaces have none of.
async fn namespace_of_names(app: &App, caller: &Caller, namespace: &Namespace, right: Right) -> Result<Arc<NamespaceConfig>, ApiError> {
    let config = authorize(app, caller, namespace, right).await?;
    match config.kind {
        NamespaceKind::Preheat => Ok(config),
        NamespaceKind::Raw => Err(ApiError::not_found("raw-namespace", format!("`{namespace}` is raw: it has no names"))),
    }
}

async fn get(axum::extract::State(app): State, caller: Caller, Ns(namespace): Ns, headers: HeaderMap) -> Result<Response, ApiError> {
    namespace_of_names(&app, &caller, &namespace, Right::Read).await?;
    let (bytes, _) = app.meta.get(&names_key(&namespace)).await?.ok_or_else(missing)?;
    Ok(envelope(&headers, bytes))
}

async fn get_old(
    axum::extract::State(app): State,
    caller: Caller,
    NsNumber(namespace, number): NsNumber,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    namespace_of_names(&app, &caller, &namespace, Right::Read).await?;
    if let Some((bytes, _)) = app.meta.get(&old_names_key(&namespace, number)).await? {
        return Ok(envelope(&headers, bytes));
    }
    match Held::<Names>::read(app.meta.as_ref(), &names_key(&namespace)).await? {
        Some(held) if held.signed.unverified().number == number => Ok(envelope(&headers, held.bytes)),
        _ => Err(missing()),
    }
}

/// What whoever sends names says that they replace.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// None.
    Nothing,
    /// One of these.
    Tags(Vec<String>),
    /// Any.
    Something,
}

impl Condition {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let bad = |what: &str| ApiError::bad_request("bad-condition", what);
        let text = |name| headers.get_all(name).iter().map(|value| value.to_str().ok()).collect::<Option<Vec<_>>>();
        let (Some(fits), Some(not)) = (text(IF_MATCH), text(IF_NONE_MATCH)) else { return Err(bad("a condition is no text")) };
        match (fits.is_empty(), not.is_empty()) {
            (true, true) => Err(ApiError::new(
                StatusCode::PRECONDITION_REQUIRED,
                "precondition-required",
                "say which names these replace: If-Match with their entity tag, or If-None-Match: * for the first",
            )),
            (false, false) => Err(bad("If-Match and If-None-Match at once")),
            (true, false) if not.iter().all(|value| value.trim() == "*") => Ok(Self::Nothing),
            (true, false) => Err(bad("of If-None-Match only * makes sense here")),
            (false, true) if fits.iter().all(|value| value.trim() == "*") => Ok(Self::Something),
            (false, true) => Ok(Self::Tags(fits.iter().flat_map(|value| value.split(',')).map(|tag| tag.trim().to_owned()).collect())),
        }
    }

    fn holds(&self, tag: Option<Digest>) -> bool {
        match (self, tag) {
            (Self::Nothing, None) | (Self::Something, Some(_)) => true,
            (Self::Tags(tags), Some(there)) => tags.iter().any(|tag| *tag == format!("\"{there}\"")),
            _ => false,
        }
    }
}

async fn put(
    axum::extract::State(app): State,
    caller: Caller,
    Ns(namespace): Ns,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Response, ApiError> {
    let config = or_drain(namespace_of_names(&app, &caller, &namespace, Right::Name).await, &mut body).await?;
    let condition = or_drain(Condition::of(&headers), &mut body).await?;
    let document = read_document(&app, &headers, body, media::ENVELOPE, Names::MAX_SIZE).await?;
    let layers = layers(&app, &caller, &namespace, &config).await?;
    let trusted = app.trust.current().await?;
    let statements = Statements { meta: app.meta.as_ref(), blobs: app.blobs.as_ref(), leases: app.leases.as_ref() };
    Ok(replaced(move_names(statements, &trusted, &layers, &config, &condition, &document.bytes, now()).await?))
}

/// Takes a names snapshot, if it follows the one that is there.
async fn move_names(
    statements: Statements<'_>,
    trusted: &Trusted,
    layers: &[Namespace],
    config: &NamespaceConfig,
    condition: &Condition,
    bytes: &[u8],
    now: u64,
) -> Result<Replaced, ApiError> {
    let refused = |error: String| ApiError::refused("names-refused", error);
    let Some(namespace) = layers.first() else { return Err(missing()) };
    let new = SignedNames::parse(bytes).map_err(|error| refused(error.to_string()))?;
    let names = new.unverified();
    if names.namespace != namespace.as_str() {
        return Err(refused(format!("these are the names of `{}`, not of `{namespace}`", names.namespace)));
    }
    new.verify(trusted.keys(Role::Namer, namespace, config, now), 1).map_err(|error| {
        refused(error.to_string()).hint("names count when a namer signed them: by a delegation of the root, or in the namespace's settings")
    })?;
    let old = Held::<Names>::read(statements.meta, &names_key(namespace)).await?;
    if let Some(old) = &old
        && old.signed.digest() == new.digest()
    {
        // The answer to the first time got lost.
        return Ok(Replaced { first: false, tag: old.tag() });
    }
    if !condition.holds(old.as_ref().map(Held::tag)) {
        let there = old.as_ref().map_or(0, |old| old.signed.unverified().number);
        return Err(ApiError::precondition(format!("somebody else was faster: the names are at number {there}")));
    }
    names.check_time(now).map_err(|error| refused(error.to_string()))?;
    let number = old.as_ref().map_or(0, |old| old.signed.unverified().number);
    if number.checked_add(1) != Some(names.number) {
        return Err(refused(format!("these are names number {}, and number {number} is there: only the next may come", names.number)));
    }
    if let Some(old) = &old {
        new.check_after(&old.signed).map_err(|error| refused(error.to_string()))?;
    }
    check_new(statements, trusted, layers, old.as_ref().map(|old| old.signed.unverified()), names).await?;
    let old = old.as_ref().map(|old| (old, old_names_key(namespace, number)));
    replace(statements.meta, &names_key(namespace), old, &new).await
}

/// Refuses names that lead, since this snapshot, to what is not there or is revoked.
async fn check_new(
    statements: Statements<'_>,
    trusted: &Trusted,
    layers: &[Namespace],
    old: Option<&Names>,
    new: &Names,
) -> Result<(), ApiError> {
    let before = |name: &String| old.and_then(|old| old.names.get(name));
    let moved: Vec<(&String, &Digest)> = new.names.iter().filter(|(name, digest)| before(name) != Some(*digest)).collect();
    if let Some((name, digest)) = moved.iter().find(|(_, digest)| trusted.blob_revoked(digest)) {
        return Err(ApiError::refused("revoked", format!("`{name}` would lead to {digest}, which is revoked")));
    }
    let digests: Vec<Digest> = moved.iter().map(|(_, digest)| **digest).collect::<BTreeSet<_>>().into_iter().collect();
    for digests in digests.chunks(BATCH) {
        let sizes = statements.sizes(layers, digests).await?;
        if let Some((digest, _)) = digests.iter().zip(sizes).find(|(_, size)| size.is_none()) {
            let name = moved.iter().find(|(_, moved)| *moved == digest).map_or("", |(name, _)| name.as_str());
            return Err(ApiError::refused("output-missing", format!("`{name}` would lead to {digest}, which is not there; push it first")));
        }
    }
    // The parts too: those of an overlay's image may be below it, where a collection that goes on knows nothing of this name yet.
    for (name, digest) in moved {
        if let Some(part) = statements.missing_part(layers, digest).await? {
            return Err(ApiError::refused(
                "output-missing",
                format!("`{name}` would lead to an image whose part {part} is not there; push it again first"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::leases::Leases;
    use crate::storage::leased::Leased;
    use crate::storage::memory::Memory;
    use crate::storage::{Blobs, Meta};
    use bytes::Bytes;
    use preheat_image::api::NamespaceBuilder;
    use preheat_image::keys::SecretKey;
    use preheat_image::manifest::{Artefact, Descriptor, Manifest};
    use preheat_image::names::MoveKind;

    struct Setup {
        memory: Memory,
        blobs: Leased,
        leases: Arc<Leases>,
    }

    fn team() -> Namespace {
        Namespace::new("team").unwrap()
    }

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn config() -> NamespaceConfig {
        let namer = NamespaceBuilder { name: "n".into(), key: key(1).public(), expires: None };
        NamespaceConfig { namers: vec![namer], ..NamespaceConfig::new(NamespaceKind::Preheat) }
    }

    /// The first names, or those after `old`, with `name` leading to `to`.
    fn moved(old: Option<&SignedNames>, name: &str, to: &[u8]) -> Names {
        let mut names = old.map_or_else(|| Names::first("team", 1, 100), |old| Names::after(old, 1, 100));
        names.set(MoveKind::Push, name, Some(Digest::of(to))).unwrap();
        names
    }

    fn signed(names: Names) -> SignedNames {
        SignedNames::new(names).unwrap().sign(&key(1)).unwrap()
    }

    fn tag(names: &SignedNames) -> Condition {
        Condition::Tags(vec![format!("\"{}\"", Digest::of(&names.to_bytes()))])
    }

    impl Setup {
        async fn new() -> Self {
            let memory = Memory::default();
            let leases = Leases::start(Arc::new(memory.clone()), Arc::new(SystemClock), 3600, true).await.unwrap();
            let setup = Self { blobs: Leased::new(Arc::new(memory.clone()), leases.clone()), memory, leases };
            setup.blob(b"image").await;
            setup
        }

        async fn blob(&self, bytes: &[u8]) {
            let mut upload = self.memory.begin(&team()).await.unwrap();
            upload.write(Bytes::copy_from_slice(bytes)).await.unwrap();
            upload.commit(&Digest::of(bytes), None).await.unwrap();
        }

        async fn put(&self, condition: &Condition, names: &SignedNames) -> Result<Replaced, ApiError> {
            let statements = Statements { meta: &self.memory, blobs: &self.blobs, leases: &self.leases };
            move_names(statements, &Trusted::default(), &[team()], &config(), condition, &names.to_bytes(), 50).await
        }

        async fn refused(&self, condition: &Condition, names: &SignedNames) -> (u16, &'static str) {
            let error = self.put(condition, names).await.unwrap_err();
            (error.status.as_u16(), error.code)
        }

        async fn current(&self) -> Bytes {
            self.memory.get(&names_key(&team())).await.unwrap().unwrap().0
        }
    }

    #[tokio::test]
    async fn names_move_one_by_one_and_the_old_ones_stay_in_the_history() {
        let setup = Setup::new().await;
        let first = signed(moved(None, "app:v1", b"image"));
        assert!(setup.put(&Condition::Nothing, &first).await.unwrap().first);
        let second = signed(moved(Some(&first), "app:v2", b"image"));
        let replaced = setup.put(&tag(&first), &second).await.unwrap();
        assert_eq!(replaced, Replaced { first: false, tag: Digest::of(&second.to_bytes()) });
        assert_eq!(setup.current().await, second.to_bytes());
        assert_eq!(setup.memory.get(&old_names_key(&team(), 1)).await.unwrap().unwrap().0, first.to_bytes());
        assert_eq!(setup.put(&tag(&first), &second).await.unwrap(), replaced, "the answer got lost, and they came once more");
    }

    #[tokio::test]
    async fn of_two_movers_at_once_one_wins_and_the_other_is_told() {
        let setup = Setup::new().await;
        let first = signed(moved(None, "app:v1", b"image"));
        setup.put(&Condition::Nothing, &first).await.unwrap();
        let (one, two) = (signed(moved(Some(&first), "a:v1", b"image")), signed(moved(Some(&first), "b:v1", b"image")));
        let condition = tag(&first);
        let (won, lost) = tokio::join!(setup.put(&condition, &one), setup.put(&condition, &two));
        let (lost, winner) = match (won, lost) {
            (Ok(_), Err(error)) => (error, one),
            (Err(error), Ok(_)) => (error, two),
            both => panic!("{both:?}"),
        };
        assert_eq!(lost.status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(setup.current().await, winner.to_bytes());
    }

    #[tokio::test]
    async fn conditions_that_do_not_hold_are_told_as_such() {
        let setup = Setup::new().await;
        let first = signed(moved(None, "app:v1", b"image"));
        assert_eq!(setup.refused(&Condition::Something, &first).await, (412, "precondition-failed"));
        assert_eq!(setup.refused(&tag(&first), &first).await, (412, "precondition-failed"));
        setup.put(&Condition::Nothing, &first).await.unwrap();
        let second = signed(moved(Some(&first), "app:v2", b"image"));
        assert_eq!(setup.refused(&Condition::Nothing, &second).await, (412, "precondition-failed"));
        assert_eq!(setup.refused(&tag(&second), &second).await, (412, "precondition-failed"));
    }

    #[tokio::test]
    async fn going_back_a_fork_and_a_gap_are_refused() {
        let setup = Setup::new().await;
        let first = signed(moved(None, "app:v1", b"image"));
        setup.put(&Condition::Nothing, &first).await.unwrap();
        let second = signed(moved(Some(&first), "app:v2", b"image"));
        setup.put(&tag(&first), &second).await.unwrap();
        let refused = (422, "names-refused");
        assert_eq!(setup.refused(&tag(&second), &first).await, refused, "back");
        let fork = signed(moved(Some(&first), "evil:v1", b"image"));
        let mut after_fork = moved(Some(&fork), "evil:v2", b"image");
        assert_eq!(setup.refused(&tag(&second), &signed(after_fork.clone())).await, refused, "a fork");
        after_fork.number = 4;
        assert_eq!(setup.refused(&tag(&second), &signed(after_fork)).await, refused, "a gap");
        assert_eq!(setup.current().await, second.to_bytes());
    }

    #[tokio::test]
    async fn only_a_namer_moves_the_names_of_its_own_namespace_and_in_time() {
        let setup = Setup::new().await;
        let names = || moved(None, "app:v1", b"image");
        let by = |seed| SignedNames::new(names()).unwrap().sign(&key(seed)).unwrap();
        let refused = (422, "names-refused");
        assert_eq!(setup.refused(&Condition::Nothing, &by(9)).await, refused);
        assert_eq!(setup.refused(&Condition::Nothing, &SignedNames::new(names()).unwrap()).await, refused, "nobody");
        assert_eq!(setup.refused(&Condition::Nothing, &signed(Names { expires: 50, ..names() })).await, refused, "over");
        assert_eq!(setup.refused(&Condition::Nothing, &signed(Names { namespace: "prod".into(), ..names() })).await, refused);
        assert!(setup.memory.get(&names_key(&team())).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn names_lead_only_to_what_is_there() {
        let setup = Setup::new().await;
        let lost = signed(moved(None, "app:v1", b"lost"));
        assert_eq!(setup.refused(&Condition::Nothing, &lost).await, (422, "output-missing"));
        let first = signed(moved(None, "app:v1", b"image"));
        setup.put(&Condition::Nothing, &first).await.unwrap();
        // What is named already may be gone: that keeps nobody from moving another name.
        Blobs::delete(&setup.memory, &team(), &Digest::of(b"image")).await.unwrap();
        setup.blob(b"other").await;
        let second = signed(moved(Some(&first), "other:v1", b"other"));
        setup.put(&tag(&first), &second).await.unwrap();
    }

    #[tokio::test]
    async fn names_lead_only_to_images_whose_parts_are_there() {
        let setup = Setup::new().await;
        let part = Artefact::of(Descriptor::of(media::HEAP, b"part"));
        let manifest = Manifest::new(None, None, vec![part]).to_bytes();
        setup.blob(&manifest).await;
        let first = signed(moved(None, "app:v1", &manifest));
        assert_eq!(setup.refused(&Condition::Nothing, &first).await, (422, "output-missing"));
        setup.blob(b"part").await;
        setup.put(&Condition::Nothing, &first).await.unwrap();
    }

    #[test]
    fn a_condition_is_one_thing_or_the_other() {
        let of = |pairs: &[(http::HeaderName, &str)]| {
            Condition::of(&pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect())
        };
        assert_eq!(of(&[]).unwrap_err().status, StatusCode::PRECONDITION_REQUIRED);
        assert_eq!(of(&[(IF_NONE_MATCH, "*")]).unwrap(), Condition::Nothing);
        assert_eq!(of(&[(IF_MATCH, "*")]).unwrap(), Condition::Something);
        assert_eq!(of(&[(IF_MATCH, "\"a\", \"b\"")]).unwrap(), Condition::Tags(vec!["\"a\"".into(), "\"b\"".into()]));
        assert_eq!(of(&[(IF_NONE_MATCH, "\"a\"")]).unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(of(&[(IF_MATCH, "*"), (IF_NONE_MATCH, "*")]).unwrap_err().status, StatusCode::BAD_REQUEST);
        assert!(!Condition::Tags(vec!["W/\"a\"".into()]).holds(Some(Digest::ZERO)));
    }
}
