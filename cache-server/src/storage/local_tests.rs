use super::*;
use crate::storage::files::FileInfo;
use bytes::Bytes;
use preheat_image::chunks;

fn namespace() -> Namespace {
    Namespace::new("team").unwrap()
}

fn blobs(dir: &Path) -> LocalBlobs {
    LocalBlobs::open(dir, LocalOptions { hard_free_bytes: 0, ..LocalOptions::default() }).unwrap()
}

fn content(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 253).to_le_bytes()[0] ^ seed).collect()
}

/// Uploads in pieces of 40,000 bytes.
async fn put<F: FileLayer>(blobs: &LocalBlobs<F>, bytes: &[u8]) -> Result<(Digest, bool), StorageError> {
    let mut upload = blobs.begin(&namespace()).await?;
    for piece in bytes.chunks(40_000) {
        upload.write(Bytes::copy_from_slice(piece)).await?;
    }
    let digest = Digest::of(bytes);
    let list = (bytes.len() > CHUNK_SIZE).then(|| Bytes::from(chunks::encode(bytes)));
    Ok((digest, upload.commit(&digest, list).await?.created))
}

/// What is stored; panics if a chunk list is missing or is not that of the bytes.
async fn get<F: FileLayer>(blobs: &LocalBlobs<F>, digest: &Digest) -> Option<Vec<u8>> {
    let mut open = blobs.open(&namespace(), digest).await.unwrap()?;
    let mut bytes = Vec::new();
    open.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(open.size, bytes.len() as u64);
    assert_eq!(open.chunks.as_deref(), (bytes.len() > CHUNK_SIZE).then(|| chunks::encode(&bytes)).as_deref());
    Some(bytes)
}

/// All files below a directory, as paths from there.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => found.push(path.strip_prefix(dir).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn blobs_of_all_sizes_come_back_after_the_storage_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 300_000, 5_000_000];
    let mut digests = Vec::new();
    {
        let blobs = blobs(dir.path());
        for size in sizes {
            let (digest, created) = put(&blobs, &content(size, 7)).await.unwrap();
            assert!(created);
            digests.push(digest);
        }
    }
    let blobs = blobs(dir.path());
    for (digest, size) in digests.iter().zip(sizes) {
        assert_eq!(get(&blobs, digest).await.unwrap(), content(size, 7));
    }
    digests.push(Digest::of(b"another"));
    let found = blobs.sizes(&namespace(), &digests).await.unwrap();
    let expected: Vec<_> = sizes.iter().map(|size| Some(*size as u64)).chain([None]).collect();
    assert_eq!(found, expected);
    assert_eq!(blobs.size(&Namespace::new("other").unwrap(), &digests[0]).await.unwrap(), None);
    let mut listed: Vec<_> = blobs.list(&namespace()).map(|entry| entry.map(|entry| (entry.digest, entry.size)).unwrap()).collect().await;
    let mut expected: Vec<_> = digests.iter().copied().zip(sizes.map(|size| size as u64)).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_blob_can_only_be_read_and_is_where_people_look_for_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let (digest, _) = put(&blobs, &content(70_000, 0)).await.unwrap();
    let hex = digest.hex();
    let path = format!("ns/team/cas/{}/{}", &hex[..2], &hex[2..]);
    assert_eq!(files(dir.path()), ["lock".to_owned(), path.clone(), format!("{path}.chunks"), "storage.json".to_owned()]);
    assert_eq!(std::fs::metadata(dir.path().join(&path)).unwrap().permissions().mode() & 0o222, 0);
}

#[tokio::test]
async fn what_is_dropped_before_its_end_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let before = files(dir.path());
    for size in [10, 700_000, 20_000_000] {
        let mut upload = blobs.begin(&namespace()).await.unwrap();
        for piece in content(size, 1).chunks(100_000) {
            upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        drop(upload);
    }
    // The threads that write and remove end.
    while Arc::strong_count(&blobs.disk) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(files(dir.path()), before);
    assert!(blobs.disk.pool.is_free(LocalOptions::default().buffer_bytes));
}

#[tokio::test]
async fn without_memory_for_pieces_uploads_work_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = LocalBlobs::open(dir.path(), LocalOptions { hard_free_bytes: 0, buffer_bytes: 0 }).unwrap();
    let (digest, _) = put(&blobs, &content(500_000, 3)).await.unwrap();
    assert_eq!(get(&blobs, &digest).await.unwrap(), content(500_000, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_upload_one_digest_at_once_and_one_file_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    for size in [100, 400_000] {
        let uploads = (0..40).map(|_| {
            let blobs = blobs.clone();
            tokio::spawn(async move { put(&blobs, &content(size, 9)).await.unwrap().1 })
        });
        let created = futures_util::future::join_all(uploads).await;
        assert_eq!(created.into_iter().filter(|created| *created.as_ref().unwrap()).count(), 1);
        assert_eq!(get(&blobs, &Digest::of(&content(size, 9))).await.unwrap(), content(size, 9));
    }
    assert_eq!(files(dir.path()).iter().filter(|path| path.starts_with("ns/")).count(), 3);
    assert_eq!(files(&dir.path().join("tmp")), [""; 0]);
}

#[tokio::test]
async fn a_damaged_blob_that_was_put_aside_is_a_miss_until_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    for size in [100, 100_000] {
        let (digest, _) = put(&blobs, &content(size, 4)).await.unwrap();
        for _ in 0..2 {
            blobs.quarantine(&namespace(), &digest, "chunk 0 does not have its digest").await.unwrap();
            assert!(blobs.open(&namespace(), &digest).await.unwrap().is_none());
            assert_eq!(blobs.size(&namespace(), &digest).await.unwrap(), None);
        }
        let aside = dir.path().join("quarantine/team").join(digest.hex());
        assert_eq!(std::fs::read(&aside).unwrap(), content(size, 4));
        assert_eq!(list_path(&aside).exists(), size > CHUNK_SIZE);
        assert_eq!(std::fs::read_to_string(aside.with_extension("why")).unwrap(), "chunk 0 does not have its digest\n");
        assert!(put(&blobs, &content(size, 4)).await.unwrap().1);
        assert_eq!(get(&blobs, &digest).await.unwrap(), content(size, 4));
    }
}

#[tokio::test]
async fn a_deleted_blob_is_gone_with_its_list_and_is_deleted_once() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let before = files(dir.path());
    let (digest, _) = put(&blobs, &content(100_000, 4)).await.unwrap();
    assert!(blobs.delete(&namespace(), &digest).await.unwrap());
    assert!(!blobs.delete(&namespace(), &digest).await.unwrap());
    assert!(!blobs.delete(&Namespace::new("other").unwrap(), &digest).await.unwrap());
    assert_eq!(files(dir.path()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_deleted_while_it_comes_is_never_there_without_its_list() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let digest = Digest::of(&content(70_000, 2));
    for _ in 0..40 {
        let deleting = {
            let blobs = blobs.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    blobs.delete(&namespace(), &digest).await.unwrap();
                }
            })
        };
        for _ in 0..3 {
            put(&blobs, &content(70_000, 2)).await.unwrap();
        }
        deleting.await.unwrap();
        if blobs.size(&namespace(), &digest).await.unwrap().is_some() {
            assert_eq!(get(&blobs, &digest).await.unwrap(), content(70_000, 2));
        }
    }
}

#[tokio::test]
async fn chunk_lists_whose_blobs_are_gone_are_swept_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let (kept, _) = put(&blobs, &content(100_000, 4)).await.unwrap();
    put(&blobs, b"small").await.unwrap();
    let before = files(dir.path());
    let (gone, _) = put(&blobs, &content(100_000, 5)).await.unwrap();
    let path = blob_path(dir.path(), &namespace(), &gone);
    // As if the process had ended between the two steps of a removal, or of an upload.
    std::fs::remove_file(&path).unwrap();
    assert!(list_path(&path).exists());
    assert_eq!(blobs.sweep(&Namespace::new("other").unwrap()).await.unwrap(), 0);
    assert_eq!(blobs.sweep(&namespace()).await.unwrap(), 1);
    assert_eq!(files(dir.path()), before);
    assert_eq!(blobs.sweep(&namespace()).await.unwrap(), 0);
    assert_eq!(get(&blobs, &kept).await.unwrap(), content(100_000, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_takes_no_list_from_a_blob_that_comes() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let digest = Digest::of(&content(70_000, 2));
    for _ in 0..20 {
        blobs.delete(&namespace(), &digest).await.unwrap();
        let bytes = content(70_000, 2);
        let (swept, put) = tokio::join!(
            async {
                for _ in 0..5 {
                    blobs.sweep(&namespace()).await.unwrap();
                }
            },
            put(&blobs, &bytes)
        );
        put.unwrap();
        let () = swept;
        assert_eq!(get(&blobs, &digest).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn an_upload_heals_a_blob_that_is_too_short_or_has_lost_its_list() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let (digest, _) = put(&blobs, &content(100_000, 4)).await.unwrap();
    let path = blob_path(dir.path(), &namespace(), &digest);
    std::fs::remove_file(list_path(&path)).unwrap();
    put(&blobs, &content(100_000, 4)).await.unwrap();
    assert_eq!(get(&blobs, &digest).await.unwrap(), content(100_000, 4));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"short").unwrap();
    assert!(put(&blobs, &content(100_000, 4)).await.unwrap().1);
    assert_eq!(get(&blobs, &digest).await.unwrap(), content(100_000, 4));
}

#[tokio::test]
async fn a_chunk_list_of_another_length_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let (digest, _) = put(&blobs, &content(100_000, 4)).await.unwrap();
    let list = list_path(&blob_path(dir.path(), &namespace(), &digest));
    std::fs::remove_file(&list).unwrap();
    std::fs::write(&list, [0; 1000]).unwrap();
    assert!(blobs.open(&namespace(), &digest).await.unwrap().unwrap().chunks.is_none());
}

#[tokio::test]
async fn only_one_process_has_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = blobs(dir.path());
    let error = LocalBlobs::open(dir.path(), LocalOptions::default()).err().unwrap().to_string();
    assert!(error.contains("another server uses"), "{error}");
    drop(first);
    blobs(dir.path());
}

#[test]
fn another_version_and_a_damaged_marker_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("storage.json");
    for (text, why) in [
        (r#"{"format":"preheat-cache-storage","version":2}"#, "version 2"),
        (r#"{"format":"something","version":1}"#, "does not say"),
        ("", "does not say"),
    ] {
        std::fs::write(&marker, text).unwrap();
        let error = LocalBlobs::open(dir.path(), LocalOptions::default()).err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn leftovers_of_other_processes_are_removed_and_running_uploads_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = blobs(dir.path());
    let mut upload = blobs.begin(&namespace()).await.unwrap();
    let bytes = content(1_000_000, 5);
    upload.write(Bytes::from(bytes.clone())).await.unwrap();
    for name in ["0123456789abcdef-0", "0123456789abcdef-1"] {
        std::fs::write(dir.path().join("tmp").join(name), b"half").unwrap();
    }
    assert_eq!(blobs.remove_leftovers().await.unwrap(), 2);
    let digest = Digest::of(&bytes);
    upload.commit(&digest, Some(chunks::encode(&bytes).into())).await.unwrap();
    assert_eq!(get(&blobs, &digest).await.unwrap(), bytes);
    assert_eq!(files(&dir.path().join("tmp")), [""; 0]);
}

#[tokio::test]
async fn below_the_hard_limit_uploads_are_refused_and_reads_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let digest = put(&blobs(dir.path()), b"there").await.unwrap().0;
    let options = LocalOptions { hard_free_bytes: u64::MAX, ..LocalOptions::default() };
    let blobs = LocalBlobs::open(dir.path(), options).unwrap();
    assert!(matches!(blobs.begin(&namespace()).await, Err(StorageError::Full(_))));
    assert_eq!(get(&blobs, &digest).await.unwrap(), b"there");
    assert_eq!(blobs.free_bytes().await.unwrap(), Some(0));
    blobs.ready().await.unwrap();
    assert!(blobs.delete(&namespace(), &digest).await.unwrap());
}

#[test]
fn a_stat_says_what_the_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, b"12345").unwrap();
    assert!(matches!(RealFiles.stat(&path).unwrap(), Some(FileInfo { size: 5, .. })));
    assert_eq!(RealFiles.stat(&path.join("below")).unwrap(), None);
}
