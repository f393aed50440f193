//! A server by script: it reads whole requests, remembers them, and answers byte by byte what a test says. Every answer ends the connection.

use preheat_cache_client::{Blob, Cache, CacheConfig, Compression, Patience};
use preheat_image::Digest;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// What a server does.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Sends these bytes as long as anybody takes them.
    Forever(Vec<u8>),
    /// Sends these bytes one by one, with time in between.
    Drip(Vec<u8>, Duration),
    /// Does nothing more until the other side goes.
    Hang,
    /// Breaks off without reading the body of the request.
    Ignore,
}

pub(crate) type Reply = Vec<Step>;

/// An answer with a body and its length.
pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    vec![Step::Send(head(status, headers, Some(body.len()))), Step::Send(body.to_vec())]
}

/// The head of an answer.
pub(crate) fn head(status: u16, headers: &[(&str, &str)], length: Option<usize>) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if let Some(length) = length {
        text += &format!("Content-Length: {length}\r\n");
    }
    (text + "\r\n").into_bytes()
}

pub(crate) fn error(status: u16, code: &str) -> Reply {
    let body = format!(r#"{{"error":"{code}","message":"said by the test"}}"#);
    reply(status, &[("Content-Type", "application/json")], body.as_bytes())
}

/// Answers a GET of `content` as a good server does, with ranges, but breaks off after `limit` bytes of the body.
pub(crate) fn serve(seen: &Seen, content: &[u8], limit: usize) -> Reply {
    let etag = format!("\"{}\"", Digest::of(content));
    let matches = seen.header("if-range").is_none_or(|tag| tag == etag);
    let from = seen
        .header("range")
        .filter(|_| matches)
        .map(|range| range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).unwrap().parse::<usize>().unwrap());
    let (head, body) = match from {
        None => (head(200, &[("ETag", &etag)], Some(content.len())), content),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            (head(206, &[("ETag", &etag), ("Content-Range", &range)], Some(content.len() - from)), &content[from..])
        }
    };
    vec![Step::Send(head), Step::Send(body[..limit.min(body.len())].to_vec())]
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// `script` gets each request and its number, from 0 on.
    pub(crate) async fn start(script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, script).await
    }

    pub(crate) async fn start_with(tls: Option<TlsAcceptor>, script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (all, script) = (Arc::clone(&seen), Arc::new(script));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (all, script, tls) = (Arc::clone(&all), Arc::clone(&script), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => talk(stream, &all, &*script).await,
                        Some(tls) => match tls.accept(stream).into_fallible().await {
                            Ok(stream) => talk(stream, &all, &*script).await,
                            Err((_, mut stream)) => {
                                // Until the client has gone: an early end could take the alert away from it.
                                let _ = stream.shutdown().await;
                                let _ = stream.read_to_end(&mut Vec::new()).await;
                                None
                            }
                        },
                    }
                });
            }
        });
        Self { address, seen, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// A client of this server that gives up soon, without compression.
    pub(crate) fn cache(&self) -> Cache {
        Cache::new(config(&self.url())).unwrap()
    }

    pub(crate) fn compressing(&self) -> Cache {
        Cache::new(CacheConfig { compression: Compression::On, ..config(&self.url()) }).unwrap()
    }
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    all: &Mutex<Vec<Seen>>,
    script: &(impl Fn(&Seen, usize) -> Reply + ?Sized),
) -> Option<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut words = head.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut seen = Seen { method, path, head, body: bytes.split_off(end) };
    // Scripts that ignore the body say so without knowing it.
    let has_body = seen.header("content-length").is_some_and(|length| length != "0") || seen.header("transfer-encoding").is_some();
    let ignore = has_body && {
        let reply = script(&Seen { body: Vec::new(), ..seen.clone() }, all.lock().unwrap().len());
        matches!(reply.first(), Some(Step::Ignore))
    };
    if !ignore {
        if let Some(length) = seen.header("content-length") {
            let length: usize = length.parse().ok()?;
            while seen.body.len() < length {
                if stream.read_buf(&mut seen.body).await.ok()? == 0 {
                    break;
                }
            }
        } else if seen.header("transfer-encoding") == Some("chunked") {
            while !seen.body.ends_with(b"0\r\n\r\n") {
                if stream.read_buf(&mut seen.body).await.ok()? == 0 {
                    break;
                }
            }
            seen.body = dechunk(&seen.body)?;
        }
    }
    let nth = {
        let mut all = all.lock().unwrap();
        all.push(seen.clone());
        all.len() - 1
    };
    for step in script(&seen, nth) {
        match step {
            Step::Send(bytes) => stream.write_all(&bytes).await.ok()?,
            Step::Forever(bytes) => loop {
                stream.write_all(&bytes).await.ok()?;
            },
            Step::Drip(bytes, pause) => {
                for byte in bytes {
                    stream.write_all(&[byte]).await.ok()?;
                    stream.flush().await.ok()?;
                    tokio::time::sleep(pause).await;
                }
            }
            Step::Hang => {
                let mut rest = Vec::new();
                while stream.read_buf(&mut rest).await.ok()? > 0 {
                    rest.clear();
                }
            }
            Step::Ignore => {}
        }
    }
    stream.flush().await.ok()?;
    stream.shutdown().await.ok()
}

fn dechunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(end + 2..end + 2 + size)?);
        bytes = bytes.get(end + 4 + size..)?;
    }
}

/// Settings for tests: they give up after at most two seconds, and wait hardly between tries.
pub(crate) fn config(url: &str) -> CacheConfig {
    CacheConfig { patience: hasty(), ..CacheConfig::new(url) }
}

pub(crate) fn hasty() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        answer: Duration::from_secs(5),
        total: Duration::from_secs(20),
        attempts: 4,
        stall: Duration::from_secs(5),
        stall_bytes: 1024,
        backoff: Duration::from_millis(2),
        longest_backoff: Duration::from_millis(4),
    }
}

/// As [`hasty`], but it does not wait for what will not come.
pub(crate) fn curt() -> Patience {
    Patience { answer: Duration::from_millis(300), stall: Duration::from_millis(300), attempts: 2, ..hasty() }
}

/// Bytes that are all different enough to notice when some are missing.
pub(crate) fn content(size: usize) -> Vec<u8> {
    let mut state = 1u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..size).map(step).collect()
}

pub(crate) fn blob(content: &[u8]) -> Blob {
    Blob { digest: Digest::of(content), size: content.len() as u64 }
}
