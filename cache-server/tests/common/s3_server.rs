//! A real S3 server process, for tests.
//!
//! It is `s3s-fs` or `moto_server`: the command in `PREHEAT_S3_SERVER`, or whichever is found in `PATH`. Without one the tests say so and pass,
//! unless `PREHEAT_INTEROP=required`.

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const KEY: &str = "preheat-test";
pub(crate) const SECRET: &str = "preheat-test-secret";
pub(crate) const BUCKET: &str = "caches";

pub(crate) struct S3 {
    child: Child,
    pub(crate) addr: SocketAddr,
    _directory: TempDir,
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn command() -> Option<PathBuf> {
    let set = std::env::var_os("PREHEAT_S3_SERVER").map(PathBuf::from);
    set.or_else(|| in_path("s3s-fs")).or_else(|| in_path("moto_server"))
}

impl S3 {
    /// Starts one with an empty bucket; None with a printed reason where none is installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(command) = command() else {
            let reason = "no S3 server: neither PREHEAT_S3_SERVER is set nor `s3s-fs` or `moto_server` in PATH";
            assert_ne!(std::env::var("PREHEAT_INTEROP").as_deref(), Ok("required"), "{reason}");
            println!("skipped: {reason}");
            return None;
        };
        Some(Self::run(&command))
    }

    fn run(command: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let port = addr.port().to_string();
        let is_moto = command.file_name().is_some_and(|name| name.to_string_lossy().contains("moto"));
        let mut process = Command::new(command);
        if is_moto {
            process.args(["-H", "127.0.0.1", "-p", &port]);
        } else {
            std::fs::create_dir(directory.path().join(BUCKET)).unwrap();
            process.args(["--host", "127.0.0.1", "--port", &port, "--access-key", KEY, "--secret-key", SECRET]).arg(directory.path());
        }
        let child = process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut s3 = Self { child, addr, _directory: directory };
        let began = Instant::now();
        while TcpStream::connect(addr).is_err() {
            assert!(s3.child.try_wait().unwrap().is_none(), "{} ended at once", command.display());
            assert!(began.elapsed() < Duration::from_secs(60), "{} does not listen", command.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        if is_moto {
            let mut stream = TcpStream::connect(addr).unwrap();
            let request = format!("PUT /{BUCKET} HTTP/1.1\r\nhost: {addr}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        s3
    }

    /// Not through our code.
    pub(crate) fn store(&self) -> AmazonS3 {
        // Whoever came first has installed the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_endpoint(format!("http://{}", self.addr))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id(KEY)
            .with_secret_access_key(SECRET)
            .build()
            .unwrap()
    }

    /// Proves that it refuses a conditional write whose condition does not hold any more; without that, what is tested over it means nothing.
    pub(crate) async fn assert_refuses_stale_writes(&self) {
        let (store, path) = (self.store(), ObjectPath::from("proof/name"));
        let create = PutOptions::from(PutMode::Create);
        let first = store.put_opts(&path, "first".into(), create.clone()).await.unwrap();
        let again = store.put_opts(&path, "again".into(), create).await.unwrap_err();
        assert!(matches!(again, object_store::Error::AlreadyExists { .. }), "{again}");
        let update = |e_tag| PutOptions::from(PutMode::Update(UpdateVersion { e_tag, version: None }));
        store.put_opts(&path, "second".into(), update(first.e_tag.clone())).await.unwrap();
        let stale = store.put_opts(&path, "stale".into(), update(first.e_tag)).await.unwrap_err();
        assert!(matches!(stale, object_store::Error::Precondition { .. }), "{stale}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "second");
    }
}
