//! The local storage on a disk of 2 MiB that is full, where this user may mount one.

use super::local::{LocalBlobs, LocalOptions};
use super::redb::RedbMeta;
use super::{Blobs, Expect, Meta, Namespace, PutError, StorageError};
use bytes::Bytes;
use preheat_image::Digest;
use std::path::Path;
use std::process::Command;

/// Says to the process that has a small disk where that is.
const SMALL_DISK: &str = "PREHEAT_TEST_SMALL_DISK";

/// Runs a test of this file again, alone, with a small disk.
fn on_a_small_disk(test: &str, work: impl AsyncFnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(SMALL_DISK) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        return runtime.block_on(work(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=2m tmpfs \"$0\"";
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(dir.path());
        command
    };
    if !unshare(mount).status().is_ok_and(|status| status.success()) {
        eprintln!("not tested: no file system can be mounted here");
        return;
    }
    let mut again = unshare(&format!("{mount} && exec \"$@\""));
    again.arg(std::env::current_exe().unwrap()).args([&format!("storage::full_tests::{test}"), "--exact", "--nocapture"]);
    let output = again.env(SMALL_DISK, dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_full_disk_refuses_blobs_and_keeps_those_it_has() {
    on_a_small_disk("a_full_disk_refuses_blobs_and_keeps_those_it_has", async |dir| {
        let blobs = LocalBlobs::open(dir, LocalOptions { hard_free_bytes: 0, ..LocalOptions::default() }).unwrap();
        let namespace = Namespace::new("team").unwrap();
        let put = async |number: u8, size: usize| {
            let bytes = vec![number; size];
            let digest = Digest::of(&bytes);
            let mut upload = blobs.begin(&namespace).await?;
            upload.write(Bytes::from(bytes)).await?;
            upload.commit(&digest, None).await.map(|_| digest)
        };
        let mut there = Vec::new();
        let full = loop {
            match put(there.len().to_le_bytes()[0], 60_000).await {
                Ok(digest) => there.push(digest),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, StorageError::Full(_)), "{full}");
        assert!(matches!(put(200, 3_000_000).await, Err(StorageError::Full(_))));
        assert!(there.len() > 20);
        assert!(std::fs::read_dir(dir.join("tmp")).unwrap().next().is_none());
        let sizes = blobs.sizes(&namespace, &there).await.unwrap();
        assert!(sizes.iter().all(|size| *size == Some(60_000)));
        // A damaged one is a miss even now, and what is deleted makes room.
        blobs.quarantine(&namespace, &there[0], "a test").await.unwrap();
        assert_eq!(blobs.size(&namespace, &there[0]).await.unwrap(), None);
        blobs.delete(&namespace, &there[1]).await.unwrap();
        put(201, 30_000).await.unwrap();
    });
}

#[test]
fn a_full_disk_refuses_records_and_takes_them_again_when_there_is_room() {
    on_a_small_disk("a_full_disk_refuses_records_and_takes_them_again_when_there_is_room", async |dir| {
        let ballast = dir.join("ballast");
        std::fs::write(&ballast, vec![1; 1_200_000]).unwrap();
        let meta = RedbMeta::open(dir).unwrap();
        let mut count = 0;
        let full = loop {
            match meta.put(&format!("key/{count}"), vec![7; 5000].into(), Expect::Absent).await {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(full, PutError::Storage(StorageError::Full(_))), "{full}");
        assert!(count > 10);
        let all_there = async || {
            for number in 0..count {
                assert_eq!(meta.get(&format!("key/{number}")).await.unwrap().unwrap().0, vec![7; 5000]);
            }
            assert!(meta.get(&format!("key/{count}")).await.unwrap().is_none());
        };
        all_there().await;
        std::fs::remove_file(&ballast).unwrap();
        meta.put("after", "room".into(), Expect::Absent).await.unwrap();
        all_there().await;
        drop(meta);
        let meta = RedbMeta::open(dir).unwrap();
        assert_eq!(meta.list("key/").await.unwrap().len(), count);
        assert!(meta.get("after").await.unwrap().is_some());
    });
}
