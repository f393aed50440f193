//! The local storage on a disk that loses power, fails or is full.

use super::files::FileLayer;
use super::files_simulated::{Failure, Forget, Simulated, Step, after_power_loss};
use super::local::{LocalBlobs, LocalOptions};
use super::{Blobs, Namespace, StorageError};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use preheat_image::Digest;
use preheat_image::chunks::{CHUNK_SIZE, encode};
use proptest::prelude::*;
use rustix::io::Errno;
use std::io::Read as _;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

/// Blobs that the tests use, by number.
const SIZES: [usize; 5] = [0, 100, 40_000, CHUNK_SIZE + 1, 160_000];

static CONTENTS: LazyLock<Vec<(Bytes, Digest, Option<Bytes>)>> = LazyLock::new(|| {
    let blobs = SIZES.iter().map(|size| {
        let bytes: Vec<u8> = (0..*size).map(|i| (i * 31 + i / 253 + size).to_le_bytes()[0] | 1).collect();
        let list = (*size > CHUNK_SIZE).then(|| Bytes::from(encode(&bytes)));
        (Bytes::from(bytes.clone()), Digest::of(&bytes), list)
    });
    blobs.collect()
});

fn digest(blob: usize) -> Digest {
    CONTENTS[blob].1
}

fn namespace() -> Namespace {
    Namespace::new("team").unwrap()
}

/// A directory in memory if there is such a thing: these tests make thousands of small files.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open<F: FileLayer>(layer: F, dir: &Path) -> Result<LocalBlobs<F>, StorageError> {
    LocalBlobs::open_with(layer, dir, LocalOptions { hard_free_bytes: 0, buffer_bytes: 100_000 })
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

async fn put<F: FileLayer>(blobs: &LocalBlobs<F>, blob: usize) -> Result<(), StorageError> {
    let (bytes, digest, list) = &CONTENTS[blob];
    let mut upload = blobs.begin(&namespace()).await?;
    for at in (0..bytes.len()).step_by(30_000) {
        upload.write(bytes.slice(at..bytes.len().min(at + 30_000))).await?;
    }
    upload.commit(digest, list.clone()).await.map(drop)
}

/// Whether a blob is there; an error if it is there and not whole.
async fn whole<F: FileLayer>(blobs: &LocalBlobs<F>, blob: usize) -> Result<bool, String> {
    let Some(mut open) = blobs.open(&namespace(), &digest(blob)).await.map_err(|error| error.to_string())? else { return Ok(false) };
    let mut bytes = Vec::new();
    open.file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let (expected, _, list) = &CONTENTS[blob];
    if bytes != *expected {
        return Err(format!("blob {blob} is there with {} bytes that are not its", bytes.len()));
    }
    if open.chunks != *list {
        return Err(format!("blob {blob} is there without its chunk list"));
    }
    Ok(true)
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

#[derive(Debug, Clone)]
enum Action {
    /// Uploads at once.
    Put(Vec<usize>),
    Delete(usize),
    Quarantine(usize),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let blob = || 0..SIZES.len();
    let action = prop_oneof![
        4 => prop::collection::vec(blob(), 1..4).prop_map(Action::Put),
        1 => blob().prop_map(Action::Delete),
        1 => blob().prop_map(Action::Quarantine),
    ];
    prop::collection::vec(action, 1..6)
}

/// Does the actions, and writes down what was acknowledged when.
fn perform(actions: &[Action], forget: Forget) -> Vec<Step> {
    let dir = directory();
    let layer = Simulated::new(dir.path());
    run(async {
        let blobs = open(layer.clone(), dir.path()).unwrap();
        layer.forget(forget);
        for action in actions {
            match action {
                Action::Put(several) => {
                    several.iter().for_each(|blob| layer.note("putting", *blob));
                    join_all(several.iter().map(async |blob| {
                        put(&blobs, *blob).await.unwrap();
                        layer.note("put", *blob);
                    }))
                    .await;
                }
                Action::Delete(blob) => {
                    layer.note("removing", *blob);
                    blobs.delete(&namespace(), &digest(*blob)).await.unwrap();
                    layer.note("removed", *blob);
                }
                Action::Quarantine(blob) => {
                    layer.note("removing", *blob);
                    blobs.quarantine(&namespace(), &digest(*blob), "a test").await.unwrap();
                    layer.note("removed", *blob);
                }
            }
        }
    });
    layer.steps()
}

/// What a blob has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    There,
    Gone,
    Either,
}

async fn check_after(steps: &[Step], keep: &mut dyn FnMut() -> bool) -> Result<(), String> {
    let mut must = [Must::Gone; SIZES.len()];
    for step in steps {
        if let Step::Note(what, blob) = step {
            must[*blob] = match *what {
                "put" => Must::There,
                "removed" => Must::Gone,
                // One that is there stays.
                "putting" if must[*blob] == Must::There => Must::There,
                _ => Must::Either,
            };
        }
    }
    let dir = directory();
    after_power_loss(steps, dir.path(), keep);
    let blobs = open(super::files::RealFiles, dir.path()).map_err(|error| error.to_string())?;
    blobs.remove_leftovers().await.map_err(|error| error.to_string())?;
    if !is_empty(&dir.path().join("tmp")) {
        return Err("leftovers are left".into());
    }
    let listed: Vec<_> = blobs.list(&namespace()).map(|entry| entry.map(|entry| entry.digest)).collect().await;
    for (blob, must) in must.into_iter().enumerate() {
        let there = whole(&blobs, blob).await?;
        if must == Must::There && !there || must == Must::Gone && there {
            return Err(format!("blob {blob}: it must be {must:?}, and is there: {there}"));
        }
        if listed.iter().flatten().any(|listed| *listed == digest(blob)) != there {
            return Err(format!("blob {blob} is not listed as it is there"));
        }
    }
    // And it goes on from there.
    for blob in [1, 4] {
        put(&blobs, blob).await.map_err(|error| error.to_string())?;
        if !whole(&blobs, blob).await? {
            return Err(format!("blob {blob} can't be uploaded"));
        }
    }
    Ok(())
}

/// Cuts the power after each step: with everything lost that can be, with nothing lost, and with a part.
fn cut_everywhere(steps: &[Step], seed: u64) -> Result<(), String> {
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state & 4 == 0
    };
    for end in 0..=steps.len() {
        let at = |why: String| format!("after {end} of {} steps: {why}", steps.len());
        run(check_after(&steps[..end], &mut || false)).map_err(at)?;
        run(check_after(&steps[..end], &mut || true)).map_err(at)?;
        run(check_after(&steps[..end], &mut random)).map_err(at)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_survives_a_loss_of_power_and_nothing_partial_does(actions in actions(), seed: u64) {
        let steps = perform(&actions, Forget::Nothing);
        if let Err(why) = cut_everywhere(&steps, seed) {
            return Err(TestCaseError::fail(why));
        }
    }
}

#[test]
fn the_simulation_notices_syncs_that_are_forgotten() {
    let actions = [Action::Put(vec![1]), Action::Put(vec![4])];
    cut_everywhere(&perform(&actions, Forget::Nothing), 1).unwrap();
    for forget in [Forget::Files, Forget::Dirs] {
        let why = cut_everywhere(&perform(&actions, forget), 1).unwrap_err();
        let expected = if forget == Forget::Files { "not its" } else { "must be There" };
        assert!(why.contains(expected), "{why}");
    }
}

/// Uploads, reads and removes with the `at`-th operation from here on failing; says what failed.
fn with_failure(failure: Failure) -> Vec<&'static str> {
    let dir = directory();
    let layer = Simulated::new(dir.path());
    run(async {
        let blobs = open(layer.clone(), dir.path()).unwrap();
        for blob in [2, 3] {
            put(&blobs, blob).await.unwrap();
            layer.note("put", blob);
        }
        layer.fail(Some(failure));
        let mut results = vec![];
        for blob in [1, 4] {
            layer.note("putting", blob);
            let result = put(&blobs, blob).await;
            if result.is_ok() {
                layer.note("put", blob);
            }
            results.push(result);
        }
        layer.note("removing", 2);
        results.push(blobs.quarantine(&namespace(), &digest(2), "a test").await);
        layer.note("removing", 3);
        results.push(blobs.delete(&namespace(), &digest(3)).await.map(drop));
        let failed = layer.fail(None);
        for result in results {
            match result {
                Ok(()) => {}
                Err(StorageError::Full(_)) => assert_eq!(failure.error, Errno::NOSPC),
                Err(StorageError::Unavailable(_)) => assert_eq!(failure.error, Errno::IO),
                Err(error) => panic!("{failure:?}: {error}"),
            }
        }
        if !failed.contains(&"unlink") {
            assert!(is_empty(&dir.path().join("tmp")), "{failure:?} at {failed:?} left something");
        }
        for blob in 0..SIZES.len() {
            whole(&blobs, blob).await.unwrap();
        }
        check_after(&layer.steps(), &mut || false).await.unwrap();
        check_after(&layer.steps(), &mut || true).await.unwrap();
        // The disk works again, and so does the storage.
        for blob in 1..5 {
            put(&blobs, blob).await.unwrap();
            assert!(whole(&blobs, blob).await.unwrap());
            layer.note("put", blob);
        }
        check_after(&layer.steps(), &mut || false).await.unwrap();
        failed
    })
}

#[test]
fn an_operation_that_fails_at_any_place_loses_nothing_and_leaves_nothing_behind() {
    for error in [Errno::IO, Errno::NOSPC] {
        for lasting in [false, true] {
            let mut kinds = std::collections::BTreeSet::new();
            let mut ended = 0;
            for at in 0.. {
                let failed = with_failure(Failure { at, lasting, error });
                // Reading does not fail on a full disk, so there are gaps.
                ended = if failed.is_empty() { ended + 1 } else { 0 };
                kinds.extend(failed);
                if ended > 12 {
                    break;
                }
            }
            for kind in ["create", "write", "sync", "rename", "sync_dir", "make_dir"] {
                assert!(kinds.contains(kind), "no {kind} has failed");
            }
        }
    }
}
