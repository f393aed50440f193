use super::*;
use futures_util::future::join_all;

fn open(dir: &Path) -> RedbMeta {
    RedbMeta::open(dir).unwrap()
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn records_are_there_after_they_were_closed() {
    let dir = tempfile::tempdir().unwrap();
    let version = {
        let meta = open(dir.path());
        assert!(meta.get("a/b").await.unwrap().is_none());
        assert_eq!(meta.list("").await.unwrap(), [""; 0]);
        meta.put("a/c", "other".into(), Expect::Any).await.unwrap();
        meta.put("ab", "other".into(), Expect::Any).await.unwrap();
        meta.put("a/b", "value".into(), Expect::Absent).await.unwrap()
    };
    let meta = open(dir.path());
    let (value, found) = meta.get("a/b").await.unwrap().unwrap();
    assert_eq!((text(&value), &found), ("value", &version));
    assert_eq!(meta.list("a/").await.unwrap(), ["a/b", "a/c"]);
    assert_eq!(meta.list("a").await.unwrap(), ["a/b", "a/c", "ab"]);
    assert!(meta.delete("a/b").await.unwrap());
    assert!(!meta.delete("a/b").await.unwrap());
    assert_eq!(meta.list("a/").await.unwrap(), ["a/c"]);
}

#[tokio::test]
async fn a_write_that_expects_something_else_is_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let meta = open(dir.path());
    let put = async |value: &'static str, expect| meta.put("key", value.into(), expect).await;
    assert!(matches!(put("x", Expect::Version(Version("1".into()))).await, Err(PutError::Conflict)));
    let first = put("1", Expect::Absent).await.unwrap();
    assert!(matches!(put("x", Expect::Absent).await, Err(PutError::Conflict)));
    let second = put("2", Expect::Version(first.clone())).await.unwrap();
    assert!(matches!(put("x", Expect::Version(first)).await, Err(PutError::Conflict)));
    assert_eq!(text(&meta.get("key").await.unwrap().unwrap().0), "2");
    // A version does not come back with the key.
    meta.delete("key").await.unwrap();
    for _ in 0..2 {
        let new = put("3", Expect::Any).await.unwrap();
        assert_ne!(new, second);
    }
    assert!(matches!(put("x", Expect::Version(second)).await, Err(PutError::Conflict)));
}

#[test]
fn sixteen_threads_count_together_and_no_count_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let meta = open(dir.path());
    let count = async || {
        let mut conflicts = 0;
        for _ in 0..20 {
            loop {
                let (number, expect) = match meta.get("count").await.unwrap() {
                    Some((value, version)) => (text(&value).parse::<u32>().unwrap(), Expect::Version(version)),
                    None => (0, Expect::Absent),
                };
                match meta.put("count", (number + 1).to_string().into(), expect).await {
                    Ok(_) => break,
                    Err(PutError::Conflict) => conflicts += 1,
                    Err(PutError::Storage(error)) => panic!("{error}"),
                }
            }
        }
        conflicts
    };
    let run = || tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(count());
    let conflicts: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(conflicts > 0);
    let (value, _) = meta.records.get("count").unwrap().unwrap();
    assert_eq!(text(&value), "320");
}

fn request(key: &str, value: &'static str, expect: Expect) -> (Request, oneshot::Receiver<Answer>) {
    let (done, answer) = oneshot::channel();
    (Request { key: key.into(), change: Change::Put(value.into(), expect), done }, answer)
}

#[test]
fn writes_that_wait_share_a_commit_and_each_gets_its_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let meta = open(dir.path());
    let (requests, answers): (Vec<_>, Vec<_>) = [
        request("a", "1", Expect::Absent),
        request("a", "2", Expect::Absent),
        request("b", "1", Expect::Any),
        request("b", "2", Expect::Any),
        request("c", "1", Expect::Version(Version("7".into()))),
    ]
    .into_iter()
    .unzip();
    meta.records.write(requests);
    let answers: Vec<Answer> = answers.into_iter().map(|answer| answer.blocking_recv().unwrap()).collect();
    let conflicts: Vec<bool> = answers.iter().map(|answer| matches!(answer, Err(PutError::Conflict))).collect();
    assert_eq!(conflicts, [false, true, false, false, true]);
    assert_eq!(meta.records.commits.load(Ordering::Relaxed), 1);
    for (key, expected, answer) in [("a", "1", &answers[0]), ("b", "2", &answers[3])] {
        let (value, version) = meta.records.get(key).unwrap().unwrap();
        assert_eq!((text(&value), Some(&version)), (expected, answer.as_ref().unwrap().as_ref()));
    }
    // Nothing but conflicts: nothing to commit.
    let (conflict, answer) = request("a", "3", Expect::Absent);
    meta.records.write(vec![conflict]);
    assert!(matches!(answer.blocking_recv().unwrap(), Err(PutError::Conflict)));
    assert_eq!(meta.records.commits.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn many_writers_need_few_commits() {
    let dir = tempfile::tempdir().unwrap();
    let meta = open(dir.path());
    let keys: Vec<String> = (0..2000).map(|i| format!("key/{i}")).collect();
    for result in join_all(keys.iter().map(|key| meta.put(key, key.clone().into(), Expect::Absent))).await {
        result.unwrap();
    }
    assert!(meta.records.commits.load(Ordering::Relaxed) <= 200);
    drop(meta);
    let meta = open(dir.path());
    for key in &keys {
        assert_eq!(text(&meta.get(key).await.unwrap().unwrap().0), key);
    }
    assert_eq!(meta.list("key/").await.unwrap().len(), 2000);
}

#[tokio::test]
async fn the_file_is_for_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    let error = RedbMeta::open(dir.path()).err().unwrap();
    assert!(matches!(error, StorageError::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_record_that_somebody_changed_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let meta = open(dir.path());
    let first = meta.put("a", "1".into(), Expect::Any).await.unwrap();
    let second = meta.put("a", "2".into(), Expect::Any).await.unwrap();
    assert!(matches!(meta.delete_version("a", &first).await, Err(PutError::Conflict)));
    assert!(meta.get("a").await.unwrap().is_some());
    meta.delete_version("a", &second).await.unwrap();
    assert_eq!(meta.get("a").await.unwrap(), None);
    assert!(matches!(meta.delete_version("a", &second).await, Err(PutError::Conflict)));
}

/// Some hundred records, closed in good order; the bytes of the file.
fn filled(dir: &Path) -> Vec<u8> {
    let meta = open(dir);
    let requests = (0..600).map(|i| request(&format!("key/{i:04}"), "a value of some length", Expect::Any).0);
    meta.records.write(requests.collect());
    drop(meta);
    std::fs::read(dir.join("meta.redb")).unwrap()
}

/// What is found wrong with a file that has one byte changed. Panics if a record is given with another value.
fn with_a_changed_byte(dir: &Path, bytes: &[u8], at: usize, verify_up_to: u64) -> Option<StorageError> {
    let mut changed = bytes.to_vec();
    changed[at] ^= 0x10;
    std::fs::write(dir.join("meta.redb"), changed).unwrap();
    let meta = match RedbMeta::open_verifying(dir, verify_up_to) {
        Ok(meta) => meta,
        Err(error) => return Some(error),
    };
    let mut missing = 0;
    for i in 0..600 {
        match meta.records.get(&format!("key/{i:04}")) {
            Ok(Some((value, _))) => assert_eq!(text(&value), "a value of some length"),
            Ok(None) => missing += 1,
            Err(error) => return Some(error),
        }
    }
    if verify_up_to > 0 {
        assert_eq!(missing, 0, "byte {at}");
        return None;
    }
    // The one in the background may be on its way still.
    let found = meta.records.walk().err();
    assert!(found.is_some() || missing == 0, "byte {at}: {missing} records are missing, and that is not found");
    found
}

#[test]
fn a_damaged_file_is_an_error_and_never_another_value() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let bytes = filled(dir.path());
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut found = [0, 0];
    let mut failed = Vec::new();
    for at in used.iter().step_by(used.len() / 150).chain(&used[..60]) {
        for (up_to, found) in [u64::MAX, 0].into_iter().zip(&mut found) {
            match catch_unwind(|| with_a_changed_byte(dir.path(), &bytes, *at, up_to)) {
                Ok(Some(_)) => *found += 1,
                Ok(None) => {}
                Err(_) => failed.push((*at, up_to)),
            }
        }
    }
    assert_eq!(failed, []);
    assert!(found[0] > 50 && found[1] > 50, "{found:?}");
}

#[tokio::test]
async fn a_file_that_is_none_of_redbs_or_is_cut_off_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = filled(dir.path());
    let path = dir.path().join("meta.redb");
    for content in [b"something else".as_slice(), &[7; 100_000], &bytes[..bytes.len() / 2], &bytes[..1000]] {
        std::fs::write(&path, content).unwrap();
        let error = RedbMeta::open(dir.path()).err().unwrap();
        assert!(matches!(error, StorageError::Damaged(_)), "{error}");
        assert!(error.to_string().contains("meta.redb"), "{error}");
    }
}

#[tokio::test]
async fn after_damage_was_found_nothing_is_read_or_written() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let meta = open(dir.path());
    let error = meta.records.guard(|| -> Result<(), _> { panic!("as redb may") }).unwrap_err();
    assert!(matches!(error, StorageError::Damaged(_)));
    assert!(matches!(meta.get("key/0000").await, Err(StorageError::Damaged(_))));
    assert!(matches!(meta.list("").await, Err(StorageError::Damaged(_))));
    assert!(matches!(meta.put("new", "".into(), Expect::Any).await, Err(PutError::Storage(StorageError::Damaged(_)))));
}
