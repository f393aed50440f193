//! A server that sends readers of large blobs to the bucket itself: the command follows, shows nothing of its own there, and believes nothing
//! that comes from there.

use crate::buckets::settings;
use crate::common::Home;
use crate::common::service::{Service, build};
use crate::s3_server::S3;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What stands between everybody and the bucket: passes all on, remembers what was said, and changes answers if it is told to.
struct Between {
    addr: SocketAddr,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    lies: Arc<AtomicBool>,
}

impl Between {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, said, lies) = (listener.local_addr().unwrap(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let (all, lie): (Arc<Mutex<Vec<Vec<u8>>>>, _) = (Arc::clone(&said), Arc::clone(&lies));
        // It ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (from, to) = (stream.unwrap(), TcpStream::connect(to).unwrap());
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                let (mut back_from, mut back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
                let (said, asked, lie) = (Arc::clone(&all), Arc::clone(&all), Arc::clone(&lie));
                std::thread::spawn(move || pass(from, to, |bytes| said.lock().unwrap()[number].extend_from_slice(bytes)));
                std::thread::spawn(move || {
                    let mut came = 0;
                    pass_back(&mut back_from, &mut back_to, |bytes| {
                        let redirected = presigned(&asked.lock().unwrap()[number]);
                        came += bytes.len();
                        // Far behind the head of the answer.
                        if redirected && lie.load(Ordering::SeqCst) && came > 4096 {
                            *bytes.last_mut().unwrap() ^= 1;
                        }
                    });
                });
            }
        });
        Self { addr, said, lies }
    }

    /// The requests for an address that the server had signed.
    fn presigned(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said.iter().filter(|said| presigned(said)).map(|said| String::from_utf8_lossy(said).into_owned()).collect()
    }
}

fn presigned(said: &[u8]) -> bool {
    let line = said.split(|byte| *byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line).contains("X-Amz-Signature=")
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8])) {
    pass_back(&mut from, &mut to, |bytes| see(bytes));
}

fn pass_back(from: &mut TcpStream, to: &mut TcpStream, mut change: impl FnMut(&mut [u8])) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        change(&mut piece[..count]);
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn a_pull_follows_to_the_bucket_without_its_token_and_verifies_what_comes() {
    let Some(s3) = S3::start() else { return };
    let between = Between::start(s3.addr);
    let home = Home::new();
    // Code is larger, the manifest smaller.
    let more = "redirect = true\nredirect-from-bytes = 8192";
    let service = Service::configured(&home, &settings(between.addr, &home.path().join("tokens.json"), more));
    let (builder, fingerprint) = service.with_root();
    build(&builder, "from the bucket itself", "app");
    builder.ok(["push", "app", &service.place("app:v1")]);
    assert_eq!(between.presigned(), [] as [String; 0], "nobody has read yet");

    let node = || {
        let node = Home::new();
        service.login(&node, &[]);
        node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
        node
    };
    let good = node();
    let ran = good.run(["run", &service.place("app:v1")]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "from the bucket itself"), "{ran:?}");
    good.assert_whole();
    let seen = between.presigned();
    assert!(!seen.is_empty(), "it was sent to the bucket");
    for request in &seen {
        let lower = request.to_lowercase();
        assert!(request.starts_with("GET /") && lower.contains("\r\nuser-agent: preheat/"), "{request}");
        assert!(!lower.contains("\r\nauthorization:") && !request.contains(&service.token), "{request}");
    }

    // Somebody on that way changes a byte: the pull fails, and nothing of it is there.
    between.lies.store(true, Ordering::SeqCst);
    let lied_to = node();
    lied_to.run(["pull", &service.place("app:v1")]).assert_fails(122, "has other bytes");
    lied_to.assert_whole();
    assert_eq!(lied_to.json(["ls"])["images"].as_array().map(Vec::len), Some(0));
    between.lies.store(false, Ordering::SeqCst);
    assert_eq!(lied_to.run(["run", &service.place("app:v1")]).stdout, "from the bucket itself");
    // What people see has no address that would let them in.
    assert!(!ran.stderr.contains("X-Amz"), "{ran:?}");
}
