//! What holds a blob, and when each was last used.
//!
//! A name leads to an image's manifest, the manifest and the statements about it lead to its parts. What a live name or a lease leads to is
//! held: in the namespace itself, and from every namespace that lies over it. For each name the place before its last move is held as well,
//! so that a rollback finds what it goes back to.

use crate::clock::seconds;
use crate::leases::Leases;
use crate::records::{names_key, statements_key};
use crate::storage::{Blobs, Meta, Namespace, StorageError};
use crate::usage;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use preheat_image::Digest;
use preheat_image::api::{NamespaceConfig, NamespaceKind, StatementList};
use preheat_image::manifest::{self, Manifest};
use preheat_image::names::SignedNames;
use preheat_image::statement::{Envelope, Kind};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::FileExt as _;

/// Records that are read at once.
const AT_ONCE: usize = 16;
/// How far a use is passed on from an image to its parts, and to theirs.
const DEPTH: u8 = 4;

/// All namespaces with their settings.
pub(super) type Namespaces = BTreeMap<Namespace, NamespaceConfig>;

/// What is read.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) blobs: &'a dyn Blobs,
    pub(super) meta: &'a dyn Meta,
    pub(super) leases: &'a Leases,
}

/// A blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// In seconds since 1970.
    pub(super) used: u64,
    /// 0 for what is part of nothing. Of what was used at the same time, an image goes before its parts.
    pub(super) depth: u8,
}

/// The blobs of a namespace.
#[derive(Debug, Default)]
pub(super) struct Marked {
    /// Those that nothing holds, in the order in which they are to go.
    pub(super) dead: Vec<Row>,
    /// Statements are about these, but they are not there.
    pub(super) ghosts: Vec<Digest>,
    pub(super) seen: u64,
    pub(super) held: u64,
    pub(super) bytes: u64,
}

/// What leads to what, and from where.
#[derive(Debug, Default)]
struct Graph {
    parts: HashMap<Digest, HashSet<Digest>>,
    roots: HashSet<Digest>,
    /// When what is leased in the namespace itself was touched.
    leased: HashMap<Digest, u64>,
    /// What statements of the namespace itself are about.
    subjects: HashSet<Digest>,
}

/// All namespaces.
pub(super) async fn namespaces(meta: &dyn Meta) -> Result<Namespaces, StorageError> {
    let mut namespaces = Namespaces::new();
    for key in meta.list("ns/").await? {
        let Some(namespace) = key.strip_prefix("ns/").and_then(Namespace::new) else { continue };
        let Some((bytes, _)) = meta.get(&key).await? else { continue };
        let config = serde_json::from_slice(&bytes).map_err(|e| StorageError::Damaged(format!("namespace `{namespace}`: {e}")))?;
        namespaces.insert(namespace, config);
    }
    Ok(namespaces)
}

/// A namespace and those below it.
pub(super) fn chain(all: &Namespaces, namespace: &Namespace) -> Vec<Namespace> {
    let mut chain = vec![namespace.clone()];
    while let Some(base) = all.get(&chain[chain.len() - 1]).and_then(|config| config.base.as_deref()).and_then(Namespace::new) {
        if chain.contains(&base) {
            break;
        }
        chain.push(base);
    }
    chain
}

/// Looks at everything in a namespace.
pub(super) async fn mark(sources: Sources<'_>, all: &Namespaces, namespace: &Namespace) -> Result<Marked, StorageError> {
    let mut rows: HashMap<Digest, Row> = HashMap::new();
    let mut list = sources.blobs.list(namespace);
    while let Some(entry) = list.try_next().await? {
        let row = Row { digest: entry.digest, size: entry.size, used: seconds(entry.written), depth: 0 };
        rows.insert(entry.digest, row);
    }
    let graph = graph(sources, all, namespace).await?;
    for (digest, minutes) in usage::read(sources.meta, namespace).await? {
        if let Some(row) = rows.get_mut(&digest) {
            row.used = row.used.max(u64::from(minutes) * 60);
        }
    }
    for (digest, time) in &graph.leased {
        if let Some(row) = rows.get_mut(digest) {
            row.used = row.used.max(*time);
        }
    }
    // A part counts as used when something was that it belongs to, so that nothing goes before what needs it.
    for _ in 0..DEPTH {
        for (subject, parts) in &graph.parts {
            let Some(Row { used, depth, .. }) = rows.get(subject).copied() else { continue };
            for part in parts.iter().filter(|part| *part != subject) {
                if let Some(row) = rows.get_mut(part) {
                    row.used = row.used.max(used);
                    row.depth = row.depth.max(depth.saturating_add(1).min(DEPTH));
                }
            }
        }
    }
    let held = graph.held();
    let mut marked = Marked {
        ghosts: graph.subjects.iter().filter(|subject| !rows.contains_key(*subject)).copied().collect(),
        seen: rows.len() as u64,
        bytes: rows.values().map(|row| row.size).sum(),
        ..Marked::default()
    };
    marked.dead = rows.into_values().filter(|row| !held.contains(&row.digest)).collect();
    marked.held = marked.seen - marked.dead.len() as u64;
    marked.dead.sort_unstable_by_key(|row| (row.used, row.depth, row.digest));
    Ok(marked)
}

/// What is held in a namespace now: the second look, at what was condemned.
pub(super) async fn held(sources: Sources<'_>, all: &Namespaces, namespace: &Namespace) -> Result<HashSet<Digest>, StorageError> {
    Ok(graph(sources, all, namespace).await?.held())
}

async fn graph(sources: Sources<'_>, all: &Namespaces, namespace: &Namespace) -> Result<Graph, StorageError> {
    let mut graph = Graph::default();
    let mut read = HashSet::new();
    for over in all.keys() {
        let chain = chain(all, over);
        if !chain.contains(namespace) {
            continue;
        }
        let leased = sources.leases.held(over).await?;
        graph.roots.extend(leased.keys());
        let named = named(sources.meta, over).await?;
        graph.roots.extend(&named);
        for layer in &chain {
            // What is below the namespace leads to nothing in it, but an image over it may have its statement there.
            if read.insert(layer.clone()) && all.get(layer).is_some_and(|config| config.kind == NamespaceKind::Preheat) {
                let subjects = statements(sources, &chain, layer, &mut graph).await?;
                if layer == namespace {
                    graph.subjects = subjects;
                }
            }
        }
        for image in named {
            if !graph.parts.contains_key(&image)
                && let Some(parts) = manifest_parts(sources, &chain, &image).await?
            {
                graph.parts.insert(image, parts);
            }
        }
        if over == namespace {
            graph.leased = leased;
        }
    }
    Ok(graph)
}

impl Graph {
    fn held(&self) -> HashSet<Digest> {
        let mut held: HashSet<Digest> = HashSet::new();
        let mut next: Vec<Digest> = self.roots.iter().copied().collect();
        while let Some(digest) = next.pop() {
            if held.insert(digest)
                && let Some(parts) = self.parts.get(&digest)
            {
                next.extend(parts);
            }
        }
        held
    }
}

/// Where the names of a namespace lead, and where each led before its last move.
async fn named(meta: &dyn Meta, namespace: &Namespace) -> Result<HashSet<Digest>, StorageError> {
    let Some((bytes, _)) = meta.get(&names_key(namespace)).await? else { return Ok(HashSet::new()) };
    // Whether its time is over does not matter here: somebody will sign the next one.
    let names = SignedNames::parse(&bytes).map_err(|error| StorageError::Damaged(format!("names of `{namespace}`: {error}")))?;
    let names = names.unverified();
    let mut named: HashSet<Digest> = names.names.values().copied().collect();
    let mut last: HashMap<&str, Digest> = HashMap::new();
    for one in &names.moves {
        if let Some(from) = one.from.filter(|from| names.names.get(&one.name) != Some(from)) {
            last.insert(&one.name, from);
        }
    }
    named.extend(last.into_iter().filter(|(name, _)| names.names.contains_key(*name)).map(|(_, from)| from));
    Ok(named)
}

/// Reads the statements of a layer into the graph. Says what they are about.
async fn statements(
    sources: Sources<'_>,
    chain: &[Namespace],
    layer: &Namespace,
    graph: &mut Graph,
) -> Result<HashSet<Digest>, StorageError> {
    let prefix = format!("st/{layer}/");
    let keys = sources.meta.list(&prefix).await?;
    let subjects: Vec<Digest> = keys.iter().filter_map(|key| Digest::from_hex(key.strip_prefix(&prefix)?).ok()).collect();
    let mut read = stream::iter(subjects.clone())
        .map(|subject| async move {
            let mut parts = HashSet::new();
            let mut is_image = false;
            for envelope in envelopes(sources.meta, &statements_key(layer, &subject)).await? {
                let statement = envelope.unverified();
                is_image |= statement.kind == Kind::Image;
                parts.extend(statement.outputs.iter().map(|output| output.digest));
            }
            if is_image {
                parts.extend(manifest_parts(sources, chain, &subject).await?.unwrap_or_default());
            }
            Ok::<_, StorageError>((subject, parts))
        })
        .buffer_unordered(AT_ONCE);
    while let Some((subject, parts)) = read.try_next().await? {
        graph.parts.entry(subject).or_default().extend(parts);
    }
    Ok(subjects.into_iter().collect())
}

/// The statements in a record. What is no statement any more is left out.
pub(super) async fn envelopes(meta: &dyn Meta, key: &str) -> Result<Vec<Envelope>, StorageError> {
    let Some((bytes, _)) = meta.get(key).await? else { return Ok(Vec::new()) };
    let list: StatementList =
        serde_json::from_slice(&bytes).map_err(|error| StorageError::Damaged(format!("statements in `{key}`: {error}")))?;
    let envelopes = list.envelopes().map_err(|error| StorageError::Damaged(format!("statements in `{key}`: {error}")))?;
    Ok(envelopes.iter().filter_map(|bytes| Envelope::parse(bytes).ok()).collect())
}

/// The parts of an image whose manifest is in one of `chain`; None if it is in none, or is no manifest.
async fn manifest_parts(sources: Sources<'_>, chain: &[Namespace], digest: &Digest) -> Result<Option<HashSet<Digest>>, StorageError> {
    for layer in chain {
        let Some(blob) = sources.blobs.open(layer, digest).await? else { continue };
        if blob.size > manifest::MAX_SIZE as u64 {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; usize::try_from(blob.size).unwrap_or_default()];
            blob.file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        });
        let bytes = match read.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(StorageError::Unavailable(format!("the manifest {digest} can't be read: {error}"))),
            Err(_) => return Err(StorageError::Other("a task ended early".into())),
        };
        if Digest::of(&bytes) != *digest {
            sources.blobs.quarantine(layer, digest, "found damaged by the collection").await?;
            continue;
        }
        let Ok(manifest) = Manifest::parse(&bytes) else { return Ok(None) };
        return Ok(Some(manifest.blobs().map(|blob| blob.digest).collect()));
    }
    Ok(None)
}
