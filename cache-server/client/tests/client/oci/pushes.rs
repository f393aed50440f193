use super::{Memory, client, failure, image, reference, registry, upload};
use crate::script::{blob, content, reply};
use preheat_cache_client::oci::{
    Content, Kind, Packed, Registry, RegistryConfig, Repository as _, Version, WasmKind, open, pull_blobs, push,
};
use preheat_cache_client::{Blob, ClientError};
use std::sync::Arc;

const TAG: &str = "v1";

fn tag() -> Version {
    Version::Tag(TAG.into())
}

async fn open_image(registry: &Registry) -> Vec<Blob> {
    match open(registry, &tag()).await.unwrap().content {
        Content::Image(bundle) => bundle.blobs.iter().map(|found| Blob { digest: found.digest, size: found.size }).collect(),
        Content::Wasm(file) => panic!("{file:?}"),
    }
}

#[tokio::test]
async fn an_image_comes_back_as_it_went_and_the_second_time_moves_nothing() {
    let (server, _) = registry(|_, _| None).await;
    let registry = client(&server, RegistryConfig::default());
    let contents = [content(3_000_000), content(10)];
    let (packed, uploads) = image(&contents);
    let pushed = push(&registry, Some(TAG), &packed, &uploads, 4, &()).await.unwrap();
    assert_eq!((pushed.moved.blobs, pushed.moved.there), (4, 0), "two blobs, the config and a statement");
    assert_eq!(pushed.digest, packed.manifest().digest);
    let found = open(&registry, &Version::Digest(pushed.digest)).await.unwrap();
    assert_eq!(found, open(&registry, &tag()).await.unwrap());
    assert_eq!(registry.manifest(&tag()).await.unwrap().kind(), Ok(Kind::Image));
    let Content::Image(bundle) = found.content else { panic!() };
    assert_eq!(bundle.statements, [b"statement"]);
    assert_eq!(bundle.blobs, packed.blobs());
    let target = Arc::new(Memory::default());
    pull_blobs(&registry, &open_image(&registry).await, 4, &target, &()).await.unwrap();
    for content in &contents {
        assert_eq!(target.0.lock().unwrap().get(&blob(content).digest), Some(content));
    }
    let again = push(&registry, Some(TAG), &packed, &[], 4, &()).await.unwrap();
    assert_eq!((again.moved.blobs, again.moved.there), (0, 4));
}

#[tokio::test]
async fn a_wasm_file_comes_back_as_it_went() {
    let (server, _) = registry(|_, _| None).await;
    let registry = client(&server, RegistryConfig::default());
    let wasm = b"\0asm\x01\0\0\0".to_vec();
    let packed = Packed::wasm(&blob(&wasm), &WasmKind::Module, Some("a.wasm")).unwrap();
    push(&registry, Some(TAG), &packed, &[upload(&wasm)], 4, &()).await.unwrap();
    assert_eq!(registry.manifest(&tag()).await.unwrap().kind(), Ok(Kind::Wasm));
    let Content::Wasm(file) = open(&registry, &tag()).await.unwrap().content else { panic!() };
    assert_eq!((file.blob, file.title.as_deref()), (blob(&wasm), Some("a.wasm")));
    let target = Arc::new(Memory::default());
    pull_blobs(&registry, &[file.blob], 1, &target, &()).await.unwrap();
    assert_eq!(target.0.lock().unwrap().get(&file.blob.digest), Some(&wasm));
}

#[tokio::test]
async fn the_tag_is_written_last_and_not_at_all_when_a_blob_fails() {
    let (server, shelf) =
        registry(|seen, _| (seen.method == "PUT" && seen.body.len() == 5).then(|| failure(400, "DIGEST_INVALID", &[]))).await;
    let registry = client(&server, RegistryConfig::default());
    let (packed, uploads) = image(&[content(5), content(6)]);
    let error = push(&registry, Some(TAG), &packed, &uploads, 2, &()).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused { code, .. } if code == "DIGEST_INVALID"), "{error}");
    assert!(shelf.lock().unwrap().manifests.is_empty());
}

#[tokio::test]
async fn a_blob_without_a_source_is_named() {
    let (server, _) = registry(|_, _| None).await;
    let registry = client(&server, RegistryConfig::default());
    let (packed, _) = image(&[content(5)]);
    let error = push(&registry, Some(TAG), &packed, &[], 2, &()).await.unwrap_err().to_string();
    assert!(error.contains(&blob(&content(5)).digest.to_string()), "{error}");
}

#[tokio::test]
async fn a_blob_goes_in_chunks_when_the_registry_takes_no_large_ones() {
    let most = 1024 * 1024;
    let (server, shelf) = registry(move |seen, _| (seen.body.len() > most).then(|| failure(413, "SIZE_INVALID", &[]))).await;
    let registry = client(&server, RegistryConfig::default());
    let content = content(2 * most + 77);
    registry.put_blob(&blob(&content), &upload(&content).source, &()).await.unwrap();
    assert_eq!(shelf.lock().unwrap().blobs.get(&blob(&content).digest.to_string()), Some(&content));
    let sizes: Vec<usize> = server.seen().iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.body.len()).collect();
    assert_eq!(sizes, [most, most, 77]);
}

#[tokio::test]
async fn chunks_are_as_large_as_the_registry_wants_them() {
    let least = 2 * 1024 * 1024;
    let location = "/v2/team/app/blobs/uploads/u0?state=a%2Fb";
    let (server, shelf) = registry(move |seen, _| {
        let begun = || reply(202, &[("Location", location), ("OCI-Chunk-Min-Length", &least.to_string())], b"");
        (seen.method == "POST" && seen.body.is_empty()).then(begun)
    })
    .await;
    shelf.lock().unwrap().uploads.insert("u0".into(), Vec::new());
    let registry = client(&server, RegistryConfig { chunked: true, ..RegistryConfig::default() });
    let content = content(least + 5);
    registry.put_blob(&blob(&content), &upload(&content).source, &()).await.unwrap();
    assert!(shelf.lock().unwrap().blobs.contains_key(&blob(&content).digest.to_string()));
    assert_eq!(server.seen().iter().filter(|seen| seen.method == "PATCH").map(|seen| seen.body.len()).max(), Some(least));
}

#[tokio::test]
async fn a_chunk_size_that_no_memory_holds_is_refused() {
    let (server, _) = registry(|seen, _| {
        let begun = || reply(202, &[("Location", "/x"), ("OCI-Chunk-Min-Length", "99999999999")], b"");
        (seen.method == "POST").then(begun)
    })
    .await;
    let registry = client(&server, RegistryConfig { chunked: true, ..RegistryConfig::default() });
    let content = content(5);
    let error = registry.put_blob(&blob(&content), &upload(&content).source, &()).await.unwrap_err();
    assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
}

#[tokio::test]
async fn an_upload_that_breaks_begins_anew() {
    let (server, shelf) = registry(|seen, nth| (seen.method == "PUT" && nth < 4).then(|| failure(503, "UNAVAILABLE", &[]))).await;
    let registry = client(&server, RegistryConfig::default());
    let content = content(500);
    registry.put_blob(&blob(&content), &upload(&content).source, &()).await.unwrap();
    assert!(shelf.lock().unwrap().blobs.contains_key(&blob(&content).digest.to_string()));
}

#[tokio::test]
async fn a_source_that_fails_is_the_reason_given() {
    let (server, shelf) = registry(|_, _| None).await;
    for chunked in [false, true] {
        let registry = client(&server, RegistryConfig { chunked, ..RegistryConfig::default() });
        let (short, long) = (upload(&content(400)).source, upload(&content(600)).source);
        for source in [short, long] {
            let error = registry.put_blob(&blob(&content(500)), &source, &()).await.unwrap_err();
            assert!(matches!(error, ClientError::Local { .. }), "{error}");
        }
    }
    assert!(shelf.lock().unwrap().blobs.is_empty());
}

#[tokio::test]
async fn what_is_no_tag_is_not_sent() {
    let (server, _) = registry(|_, _| None).await;
    let registry = client(&server, RegistryConfig::default());
    for bad in ["../x", "a/b", "", ".", "a b", "sha256:1"] {
        let error = registry.put_manifest(Some(bad), "application/json", b"{}").await.unwrap_err();
        assert!(matches!(error, ClientError::Invalid(_)), "{bad}: {error}");
    }
    assert_eq!(server.seen().len(), 0);
    assert!(reference(&server).tag().is_some());
}
