use super::{Memory, image, is_mismatch, upload};
use crate::script::{blob, content};
use preheat_cache_client::oci::{Content, IMAGE_MANIFEST, Layout, Repository as _, Version, open, pull_blobs, push};
use preheat_cache_client::{Blob, ClientError};
use preheat_image::Digest;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn tag(name: &str) -> Version {
    Version::Tag(name.into())
}

fn file(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}

/// A layout with an image of one blob of 1,000 bytes under `v1`.
async fn exported(root: &Path) -> (Layout, Blob, Digest) {
    let layout = Layout::create(root).unwrap();
    let (packed, uploads) = image(&[content(1000)]);
    let pushed = push(&layout, Some("v1"), &packed, &uploads, 2, &()).await.unwrap();
    (layout, blob(&content(1000)), pushed.digest)
}

#[tokio::test]
async fn an_image_comes_back_as_it_went() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/layout");
    let (_, heap, digest) = exported(&root).await;
    let layout = Layout::open(&root).unwrap();
    let found = open(&layout, &tag("v1")).await.unwrap();
    assert_eq!(found.digest, digest);
    let Content::Image(bundle) = found.content else { panic!() };
    assert_eq!(bundle.statements, [b"statement"]);
    let target = Arc::new(Memory::default());
    pull_blobs(&layout, &[heap], 2, &target, &()).await.unwrap();
    assert_eq!(target.0.lock().unwrap().get(&heap.digest), Some(&content(1000)));
    let mut names: Vec<String> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["blobs", "index.json", "oci-layout"], "nothing is left behind");
    assert_eq!(fs::read_to_string(root.join("oci-layout")).unwrap(), r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[tokio::test]
async fn what_is_in_a_layout_stays_when_more_comes() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (layout, _, first) = exported(root).await;
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(root.join("index.json")).unwrap()).unwrap();
    index["annotations"] = serde_json::json!({"kept": "yes"});
    index["manifests"][0]["news"] = serde_json::json!([1]);
    fs::write(root.join("index.json"), index.to_string()).unwrap();
    let (packed, uploads) = image(&[content(7)]);
    push(&layout, Some("v2"), &packed, &uploads, 2, &()).await.unwrap();
    let names: Vec<Option<String>> = layout.entries().unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [Some("v1".into()), Some("v2".into())]);
    let index: serde_json::Value = serde_json::from_slice(&fs::read(root.join("index.json")).unwrap()).unwrap();
    assert_eq!((&index["annotations"]["kept"], &index["manifests"][0]["news"]), (&"yes".into(), &serde_json::json!([1])));
    // The name goes on to the new image; the old one stays, without it.
    push(&layout, Some("v1"), &packed, &[], 2, &()).await.unwrap();
    assert_eq!(open(&layout, &tag("v1")).await.unwrap().digest, packed.manifest().digest);
    assert!(open(&layout, &Version::Digest(first)).await.is_ok());
    let names: Vec<(Option<String>, Digest)> = layout.entries().unwrap().into_iter().map(|entry| (entry.name, entry.digest)).collect();
    let new = packed.manifest().digest;
    assert_eq!(names, [(None, first), (Some("v2".into()), new), (Some("v1".into()), new)]);
}

#[tokio::test]
async fn exports_at_the_same_time_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    Layout::create(directory.path()).unwrap();
    let threads: Vec<_> = (0..8)
        .map(|i: usize| {
            let root = directory.path().to_owned();
            std::thread::spawn(move || {
                let layout = Layout::open(&root).unwrap();
                let (packed, uploads) = image(&[content(100 + i)]);
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(push(&layout, Some(&format!("v{i}")), &packed, &uploads, 2, &())).unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(Layout::open(directory.path()).unwrap().entries().unwrap().len(), 8);
}

#[tokio::test]
async fn a_damaged_blob_is_noticed_and_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, heap, digest) = exported(directory.path()).await;
    let path = file(directory.path(), &heap.digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[500] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(is_mismatch(&layout.get_blob(&heap, &mut Vec::new(), &()).await.unwrap_err()));
    assert!(!layout.has_blob(&heap).await.unwrap());
    let (packed, uploads) = image(&[content(1000)]);
    push(&layout, Some("v1"), &packed, &uploads, 2, &()).await.unwrap();
    assert!(layout.has_blob(&heap).await.unwrap());
    for size in [999, 1001] {
        fs::write(&path, content(size)).unwrap();
        assert!(matches!(layout.get_blob(&heap, &mut Vec::new(), &()).await.unwrap_err(), ClientError::BadAnswer { .. }));
        assert!(!layout.has_blob(&heap).await.unwrap());
    }
    fs::write(file(directory.path(), &digest), b"{}").unwrap();
    assert!(is_mismatch(&open(&layout, &tag("v1")).await.unwrap_err()));
}

#[tokio::test]
async fn links_lead_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("layout");
    let (layout, heap, digest) = exported(&root).await;
    let elsewhere = directory.path().join("elsewhere");
    for digest in [heap.digest, digest] {
        fs::rename(file(&root, &digest), &elsewhere).unwrap();
        symlink(&elsewhere, file(&root, &digest)).unwrap();
        assert!(layout.get_blob(&heap, &mut Vec::new(), &()).await.is_err() || open(&layout, &tag("v1")).await.is_err());
        fs::remove_file(file(&root, &digest)).unwrap();
        fs::rename(&elsewhere, file(&root, &digest)).unwrap();
    }
    assert!(layout.get_blob(&heap, &mut Vec::new(), &()).await.is_ok() && open(&layout, &tag("v1")).await.is_ok());
    for name in ["index.json", "oci-layout", "blobs", "blobs/sha256"] {
        let path = root.join(name);
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        let refused = match Layout::open(&root) {
            Ok(layout) => layout.entries().is_err(),
            Err(_) => true,
        };
        assert!(refused, "{name}");
        fs::remove_file(&path).unwrap();
        fs::rename(&elsewhere, &path).unwrap();
    }
    assert!(Layout::open(&root).is_ok());
}

#[tokio::test]
async fn a_pipe_does_not_hang() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, heap, _) = exported(directory.path()).await;
    let path = file(directory.path(), &heap.digest);
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(matches!(layout.get_blob(&heap, &mut Vec::new(), &()).await.unwrap_err(), ClientError::BadAnswer { .. }));
}

#[tokio::test]
async fn an_index_that_makes_no_sense_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, _, _) = exported(directory.path()).await;
    let index = fs::read_to_string(directory.path().join("index.json")).unwrap();
    let twice =
        index.replace("\"manifests\":[", &format!("\"manifests\":[{},", &index[index.find("[{").unwrap() + 1..index.rfind(']').unwrap()]));
    for bad in [
        "".to_owned(),
        "[]".into(),
        "{}".into(),
        index.replace("\"schemaVersion\":2", "\"schemaVersion\":3"),
        index.replace("sha256:", "sha256:../"),
        index.replace("sha256:", "sha512:"),
        index.replace("\"digest\"", "\"other\""),
        index.replace("\"manifests\":[", "\"manifests\":[3,"),
        index.replace(IMAGE_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"),
        twice,
        " ".repeat(5 << 20),
    ] {
        assert_ne!(bad, index);
        fs::write(directory.path().join("index.json"), &bad).unwrap();
        assert!(open(&layout, &tag("v1")).await.is_err(), "{}", bad.chars().take(500).collect::<String>());
    }
    fs::write(directory.path().join("index.json"), &index).unwrap();
    assert!(open(&layout, &tag("v1")).await.is_ok());
}

#[test]
fn what_is_no_layout_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("mine"), "x").unwrap();
    assert!(Layout::open(directory.path()).is_err());
    assert!(Layout::create(directory.path()).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let newer = tempfile::tempdir().unwrap();
    Layout::create(newer.path()).unwrap();
    fs::write(newer.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(Layout::open(newer.path()).unwrap_err().to_string().contains("2.0.0"));
}

#[tokio::test]
async fn names_and_sources_that_do_not_fit_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::create(directory.path()).unwrap();
    for bad in ["", "-a", "a b", "a\n", "\u{e9}"] {
        assert!(layout.put_manifest(Some(bad), IMAGE_MANIFEST, b"{}").await.is_err(), "{bad:?}");
    }
    for wrong in [content(9), content(11), vec![0; 10]] {
        let error = layout.put_blob(&blob(&content(10)), &upload(&wrong).source, &()).await.unwrap_err();
        assert!(matches!(error, ClientError::Local { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
}
