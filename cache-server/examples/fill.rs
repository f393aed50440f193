//! Fills a directory of the cache server with small entries, for measuring it with many: `fill DIR NAMESPACE COUNT`.
//!
//! Makes `COUNT` blobs, each the decimal number of the blob, and a raw entry for each, whose key is the digest of `key` and that number. Blobs
//! are written to their places without a sync each, which is what makes this fast: only the whole is synced at the end, so a directory whose
//! filling was cut off is to be thrown away. The server must not be running.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use preheat_cache_server::storage::local::{LocalBlobs, LocalOptions, blob_path};
use preheat_cache_server::storage::redb::RedbMeta;
use preheat_cache_server::storage::{Expect, Meta as _, Namespace};
use preheat_image::Digest;
use std::path::{Path, PathBuf};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, namespace, count] = arguments.as_slice() else { anyhow::bail!("usage: fill DIR NAMESPACE COUNT") };
    let namespace = Namespace::new(namespace).context("that is no name of a namespace")?;
    let count = count.parse()?;
    ensure!(count > 0, "there is nothing to do");
    let dir = PathBuf::from(dir);
    tokio::runtime::Runtime::new()?.block_on(fill(&dir, &namespace, count))
}

async fn fill(dir: &Path, namespace: &Namespace, count: u64) -> anyhow::Result<()> {
    let _blobs = LocalBlobs::open(dir, LocalOptions::default())?;
    let meta = RedbMeta::open(dir)?;
    for shard in 0..=u8::MAX {
        let mut first = [0; 32];
        first[0] = shard;
        let path = blob_path(dir, namespace, &Digest::from_bytes(first));
        std::fs::create_dir_all(path.parent().context("a blob is in a directory")?)?;
    }
    // Both at once: one waits for the disk, the other for the processor.
    let files = {
        let (dir, namespace) = (dir.to_owned(), namespace.clone());
        tokio::task::spawn_blocking(move || {
            for number in 0..count {
                let content = number.to_string();
                std::fs::write(blob_path(&dir, &namespace, &Digest::of(content.as_bytes())), content)?;
            }
            rustix::fs::syncfs(std::fs::File::open(&dir)?)?;
            Ok::<_, std::io::Error>(())
        })
    };
    let config = r#"{"kind":"raw"}"#;
    meta.put(&format!("ns/{namespace}"), config.into(), Expect::Any).await?;
    let entries = stream::iter(0..count).map(async |number| {
        let content = number.to_string();
        let key = Digest::of(format!("key{number}").as_bytes());
        let value = serde_json::json!({ "digest": Digest::of(content.as_bytes()), "size": content.len() }).to_string();
        meta.put(&format!("ac/{namespace}/{}", key.hex()), Bytes::from(value), Expect::Any).await.map(drop)
    });
    entries.buffer_unordered(2048).try_collect::<()>().await?;
    files.await??;
    println!("{count} blobs and entries are in {}", dir.display());
    Ok(())
}
