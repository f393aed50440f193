//! Against what others wrote: Debian's `docker-registry`, and `skopeo` as a second client. Both are started here; without them the test says
//! why it does nothing, unless `PREHEAT_INTEROP=required`.

use preheat_cache_client::oci::{
    Content, DockerConfig, Found, Layout, Packed, Reference, Registry, RegistryConfig, RegistryCredentials, Repository as _, Version,
    WasmKind, open, pull_blobs, push,
};
use preheat_cache_client::transfer::{Target, Upload};
use preheat_cache_client::{Blob, ClientError, Patience};
use preheat_image::manifest::{Artefact, Descriptor};
use preheat_image::{Digest, Manifest, media};
use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// `docker-registry` in a process, with its data in a directory of its own.
struct Process {
    child: Child,
    host: String,
    directory: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// With user `user` and password `secret` if `locked`.
    async fn start(locked: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        // Nobody else has it now; should somebody take it meanwhile, the registry does not start and the test fails.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let passwords = root.join("passwords");
        // bcrypt of `secret`, of the lowest cost.
        std::fs::write(&passwords, "user:$2b$04$MnlxFMcgJIKqxglhvdf8aO.GztRwu62AQi3bpj1X9BuwCBnuAcvZm\n").unwrap();
        let lock = if locked { format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", passwords.display()) } else { String::new() };
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: \"{address}\"}}\n{lock}",
            root.join("data").display()
        );
        std::fs::write(root.join("config.yml"), config).unwrap();
        let log = std::fs::File::create(root.join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(root.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut process = Self { child, host: address.to_string(), directory };
        for _ in 0..600 {
            if std::net::TcpStream::connect(address).is_ok() {
                return process;
            }
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("docker-registry ended, {status}: {}", std::fs::read_to_string(process.directory.path().join("log")).unwrap());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("docker-registry does not listen");
    }

    fn reference(&self, repository: &str) -> Reference {
        format!("oci://{}/{repository}:v1", self.host).parse().unwrap()
    }

    fn client(&self, repository: &str, config: RegistryConfig) -> Registry {
        Registry::new(&self.reference(repository), RegistryConfig { patience: Patience::patient(), ..config }).unwrap()
    }

    fn docker(&self, repository: &str) -> String {
        format!("docker://{}/{repository}:v1", self.host)
    }
}

/// Whether all `programs` are installed.
fn installed(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| Command::new(program).arg("--version").output().is_err()).collect();
    if missing.is_empty() {
        return true;
    }
    let text = format!("not installed: {} (Debian packages of the same names)", missing.join(", "));
    assert!(std::env::var("PREHEAT_INTEROP").as_deref() != Ok("required"), "{text}");
    eprintln!("skipped: {text}");
    false
}

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().unwrap();
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn copy(from: &str, to: &str) {
    skopeo(&["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", from, to]);
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 253).to_le_bytes()[0]).collect()
}

fn upload(bytes: &[u8]) -> Upload {
    let shared: Arc<[u8]> = bytes.into();
    let blob = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
    Upload { blob, source: Arc::new(move || Ok(Box::new(Cursor::new(Arc::clone(&shared))))) }
}

#[derive(Default)]
struct Memory(Mutex<BTreeMap<Digest, Vec<u8>>>);

impl Target for Memory {
    type Sink = Vec<u8>;

    fn open(&self, _: &Blob) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn publish(&self, blob: &Blob, sink: Vec<u8>) -> io::Result<()> {
        self.0.lock().unwrap().insert(blob.digest, sink);
        Ok(())
    }
}

struct Image {
    packed: Packed,
    uploads: Vec<Upload>,
    contents: Vec<Vec<u8>>,
}

fn image() -> Image {
    // The large one needs several chunks where it goes in chunks.
    let contents = vec![content(3_500_000), content(77)];
    let mut heap = Artefact::of(Descriptor::of(media::HEAP, &contents[0]));
    heap.chunks = Some(Descriptor::of(media::CHUNKS, &contents[1]));
    let manifest = Manifest::new(None, None, vec![heap]).to_bytes();
    let packed = Packed::image(&manifest, &[b"one".to_vec(), b"two".to_vec()]).unwrap();
    Image { packed, uploads: contents.iter().map(|bytes| upload(bytes)).collect(), contents }
}

impl Image {
    async fn push(&self, registry: &Registry) -> Digest {
        push(registry, Some("v1"), &self.packed, &self.uploads, 4, &()).await.unwrap().digest
    }

    /// That what was found is this image, to the last byte.
    async fn check(&self, from: &dyn preheat_cache_client::oci::Repository, found: Found) {
        assert_eq!(found.digest, self.packed.manifest().digest);
        let Content::Image(bundle) = found.content else { panic!() };
        assert_eq!(bundle.blobs, self.packed.blobs());
        assert_eq!(bundle.statements.len(), 2);
        let blobs: Vec<Blob> = self.uploads.iter().map(|upload| upload.blob).collect();
        let target = Arc::new(Memory::default());
        pull_blobs(from, &blobs, 4, &target, &()).await.unwrap();
        for content in &self.contents {
            assert!(target.0.lock().unwrap().get(&Digest::of(content)) == Some(content));
        }
    }
}

fn tag() -> Version {
    Version::Tag("v1".into())
}

#[tokio::test]
async fn docker_registry_carries_an_image() {
    if !installed(&["docker-registry"]) {
        return;
    }
    let process = Process::start(false).await;
    let image = image();
    for (repository, chunked) in [("team/app", false), ("team/chunked", true)] {
        let registry = process.client(repository, RegistryConfig { chunked, ..RegistryConfig::default() });
        registry.ping().await.unwrap();
        let digest = image.push(&registry).await;
        for version in [tag(), Version::Digest(digest)] {
            image.check(&registry, open(&registry, &version).await.unwrap()).await;
        }
        let error = open(&registry, &Version::Tag("v2".into())).await.unwrap_err();
        assert!(matches!(&error, ClientError::NotFound { code, .. } if code == "MANIFEST_UNKNOWN"), "{error}");
    }
}

#[tokio::test]
async fn docker_registry_refuses_a_manifest_before_its_blobs() {
    if !installed(&["docker-registry"]) {
        return;
    }
    let process = Process::start(false).await;
    let registry = process.client("team/app", RegistryConfig::default());
    let error =
        registry.put_manifest(Some("v1"), &image().packed.manifest().media_type, image().packed.manifest_bytes()).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused { code, .. } if code == "MANIFEST_BLOB_UNKNOWN"), "{error}");
}

#[tokio::test]
async fn docker_registry_wants_a_password() {
    if !installed(&["docker-registry"]) {
        return;
    }
    let process = Process::start(true).await;
    let file = process.directory.path().join("config.json");
    // As `docker login` leaves it: `user:secret`.
    std::fs::write(&file, format!(r#"{{"auths": {{"{}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#, process.host)).unwrap();
    let credentials = DockerConfig::read(&file).unwrap().lookup(&process.host, "team/app");
    assert_ne!(credentials, RegistryCredentials::Anonymous);
    let registry = process.client("team/app", RegistryConfig { credentials, ..RegistryConfig::default() });
    let image = image();
    image.push(&registry).await;
    image.check(&registry, open(&registry, &tag()).await.unwrap()).await;
    let error = open(&process.client("team/app", RegistryConfig::default()), &tag()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn skopeo_carries_an_image_there_and_back() {
    if !installed(&["docker-registry", "skopeo"]) {
        return;
    }
    let process = Process::start(false).await;
    let image = image();
    let registry = process.client("team/app", RegistryConfig::default());
    let digest = image.push(&registry).await;
    // Registry to layout, which we read.
    let path = process.directory.path().join("layout");
    let layout_name = format!("oci:{}:v1", path.display());
    copy(&process.docker("team/app"), &layout_name);
    let layout = Layout::open(&path).unwrap();
    image.check(&layout, open(&layout, &tag()).await.unwrap()).await;
    // And back, into another repository.
    copy(&layout_name, &process.docker("team/back"));
    let back = process.client("team/back", RegistryConfig::default());
    image.check(&back, open(&back, &tag()).await.unwrap()).await;
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &process.docker("team/back")]);
    assert_eq!(Digest::of(raw.as_bytes()), digest);
    // An archive of a layout works as well.
    let archive = format!("oci-archive:{}:v1", process.directory.path().join("layout.tar").display());
    copy(&layout_name, &archive);
    copy(&archive, &process.docker("team/archived"));
    let archived = process.client("team/archived", RegistryConfig::default());
    image.check(&archived, open(&archived, &tag()).await.unwrap()).await;
}

#[tokio::test]
async fn skopeo_reads_a_layout_that_was_written_here() {
    if !installed(&["docker-registry", "skopeo"]) {
        return;
    }
    let process = Process::start(false).await;
    let image = image();
    let path = process.directory.path().join("layout");
    let layout = Layout::create(&path).unwrap();
    push(&layout, Some("v1"), &image.packed, &image.uploads, 4, &()).await.unwrap();
    copy(&format!("oci:{}:v1", path.display()), &process.docker("team/app"));
    let registry = process.client("team/app", RegistryConfig::default());
    image.check(&registry, open(&registry, &tag()).await.unwrap()).await;
    // What it adds to the layout stands beside ours.
    copy(&process.docker("team/app"), &format!("oci:{}:theirs", path.display()));
    for name in ["v1", "theirs"] {
        image.check(&layout, open(&layout, &Version::Tag(name.into())).await.unwrap()).await;
    }
}

#[tokio::test]
async fn skopeo_carries_a_wasm_file() {
    if !installed(&["docker-registry", "skopeo"]) {
        return;
    }
    let process = Process::start(false).await;
    let wasm = [b"\0asm\x01\0\0\0".as_slice(), &content(100_000)].concat();
    let upload = upload(&wasm);
    let packed = Packed::wasm(&upload.blob, &WasmKind::Module, Some("a.wasm")).unwrap();
    let registry = process.client("team/wasm", RegistryConfig::default());
    push(&registry, Some("v1"), &packed, std::slice::from_ref(&upload), 1, &()).await.unwrap();
    let path = process.directory.path().join("layout");
    copy(&process.docker("team/wasm"), &format!("oci:{}:v1", path.display()));
    check_wasm(&Layout::open(&path).unwrap(), &packed, upload.blob, &wasm).await;
    copy(&format!("oci:{}:v1", path.display()), &process.docker("team/back"));
    check_wasm(&process.client("team/back", RegistryConfig::default()), &packed, upload.blob, &wasm).await;
}

async fn check_wasm(from: &dyn preheat_cache_client::oci::Repository, packed: &Packed, blob: Blob, wasm: &Vec<u8>) {
    let found = open(from, &tag()).await.unwrap();
    assert_eq!(found.digest, packed.manifest().digest);
    let Content::Wasm(file) = found.content else { panic!() };
    assert_eq!((file.blob, file.title.as_deref()), (blob, Some("a.wasm")));
    let target = Arc::new(Memory::default());
    pull_blobs(from, &[blob], 1, &target, &()).await.unwrap();
    assert!(target.0.lock().unwrap().get(&blob.digest) == Some(wasm));
}
