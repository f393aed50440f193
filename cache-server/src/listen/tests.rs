use super::*;
use axum::routing::{get, put};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::time::Instant;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const BIG: usize = 16 * 1024 * 1024;
/// Longer than anything here takes; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<io::Result<()>>,
    /// What `/held` waits for.
    gate: Arc<Semaphore>,
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub(crate) async fn start(limits: ConnectionLimits, tls: Option<Arc<Tls>>) -> Running {
    limits.check().unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
    let big = move || {
        let chunks = futures_util::stream::repeat(chunk.clone()).take(BIG / chunk.len()).map(Ok::<_, Infallible>);
        async move { ([("content-length", BIG)], Body::from_stream(chunks)) }
    };
    let router = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/big", get(big))
        .route("/upload", put(upload))
        .route("/refuse", put(|| async { http::StatusCode::PAYLOAD_TOO_LARGE }))
        .route("/peer", get(|axum::Extension(peer): axum::Extension<Peer>| async move { format!("{:?}", peer.certificate) }))
        .route(
            "/held",
            get(move || async move {
                held.acquire().await.unwrap().forget();
                "held"
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, tls, router, limits, shutdown.clone()));
    Running { addr, shutdown, task, gate }
}

async fn upload(body: Body) -> String {
    let mut bytes = 0;
    let mut stream = body.into_data_stream();
    while let Some(Ok(chunk)) = stream.next().await {
        bytes += chunk.len();
    }
    bytes.to_string()
}

/// Everything that comes until the end, whatever the end is.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = vec![0; 64 * 1024];
    loop {
        match tokio::time::timeout(PATIENCE, stream.read(&mut buf)).await.expect("the service ends the connection") {
            Ok(0) | Err(_) => return all,
            Ok(n) => all.extend_from_slice(&buf[..n]),
        }
    }
}

async fn ask(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    String::from_utf8_lossy(&rest(&mut stream).await).into_owned()
}

fn request(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{more}\r\n")
}

/// A request on a connection that stays.
async fn hello(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(request("GET", "/hello", "").as_bytes()).await?;
    let mut all = Vec::new();
    while !all.ends_with(b"hello") {
        let mut buf = [0; 1024];
        match stream.read(&mut buf).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => all.extend_from_slice(&buf[..n]),
        }
    }
    assert!(all.starts_with(b"HTTP/1.1 200"));
    Ok(())
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is().await {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A connection with little room for what it does not read.
async fn narrow(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(addr).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_slow_clients_do_not_stop_a_normal_one_and_are_ended() {
    let limits = ConnectionLimits { header_seconds: 8, slow_seconds: 8, ..ConnectionLimits::default() };
    let server = start(limits, None).await;
    let addr = server.addr;
    let mut slow = Vec::new();
    for number in 0..2000 {
        let mut stream = narrow(addr).await;
        match number % 3 {
            0 => stream.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\nx-a: b\r\n").await.unwrap(),
            1 => stream.write_all(request("PUT", "/upload", "content-length: 1000000\r\n").as_bytes()).await.unwrap(),
            _ => stream.write_all(request("GET", "/big", "").as_bytes()).await.unwrap(),
        }
        slow.push(stream);
    }
    // While they are all there: new connections, requests on one that stays, uploads, downloads.
    for _ in 0..50 {
        assert!(ask(addr, &request("GET", "/hello", "connection: close\r\n")).await.ends_with("hello"));
    }
    let mut kept = TcpStream::connect(addr).await.unwrap();
    for _ in 0..200 {
        hello(&mut kept).await.unwrap();
    }
    let mut upload = TcpStream::connect(addr).await.unwrap();
    upload.write_all(request("PUT", "/upload", &format!("content-length: {BIG}\r\nconnection: close\r\n")).as_bytes()).await.unwrap();
    upload.write_all(&vec![1; BIG]).await.unwrap();
    assert!(rest(&mut upload).await.ends_with(BIG.to_string().as_bytes()));
    assert!(ask(addr, &request("GET", "/big", "connection: close\r\n")).await.len() > BIG);
    // Each drips a byte now and then, which does not help it.
    let drips = slow.into_iter().enumerate().map(|(number, mut stream)| async move {
        let started = Instant::now();
        let mut buf = [0; 16];
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            // A write to, or at last a read from, a connection that was ended fails.
            let ended = match number % 3 {
                2 => !matches!(stream.read(&mut buf[..1]).await, Ok(1)) || stream.try_write(b"x").is_err(),
                _ => stream.write_all(b"x").await.is_err() || matches!(stream.try_read(&mut buf), Ok(0)),
            };
            if ended {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "slow client {number} is still there");
        }
    });
    futures_util::stream::iter(drips).buffer_unordered(2000).collect::<Vec<()>>().await;
    hello(&mut TcpStream::connect(addr).await.unwrap()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_steady_client_is_not_slow() {
    let limits = ConnectionLimits { slow_seconds: 1, header_seconds: 1, ..ConnectionLimits::default() };
    let server = start(limits, None).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(request("PUT", "/upload", "content-length: 40000\r\nconnection: close\r\n").as_bytes()).await.unwrap();
    // Four windows long, at several times the least rate.
    for _ in 0..40 {
        stream.write_all(&[1; 1000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(rest(&mut stream).await.ends_with(b"40000"));
    server.stop().await;
}

#[tokio::test]
async fn a_long_answer_of_ours_is_not_the_clients_fault() {
    let limits = ConnectionLimits { slow_seconds: 1, header_seconds: 1, idle_seconds: 1, ..ConnectionLimits::default() };
    let server = start(limits, None).await;
    let waiting = tokio::spawn({
        let addr = server.addr;
        async move { ask(addr, &request("GET", "/held", "connection: close\r\n")).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.gate.add_permits(1);
    assert!(waiting.await.unwrap().ends_with("held"));
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_ended_after_its_time() {
    let server = start(ConnectionLimits { idle_seconds: 1, ..ConnectionLimits::default() }, None).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    hello(&mut stream).await.unwrap();
    assert!(rest(&mut stream).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn when_all_places_are_taken_those_that_ask_for_nothing_make_room() {
    let server = start(ConnectionLimits { max_connections: 64, ..ConnectionLimits::default() }, None).await;
    let mut idle = Vec::new();
    for number in 0..64 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        match number % 2 {
            0 => hello(&mut stream).await.unwrap(),
            _ => stream.write_all(b"GET /hel").await.unwrap(),
        }
        idle.push(stream);
    }
    let mut new = TcpStream::connect(server.addr).await.unwrap();
    hello(&mut new).await.unwrap();
    assert!(rest(&mut idle[0]).await.is_empty(), "the oldest is ended");
    let newest = idle.len() - 2;
    hello(&mut idle[newest]).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn when_all_places_are_at_work_a_new_client_is_told_so_at_once() {
    let server = start(ConnectionLimits { max_connections: 4, header_seconds: 1, ..ConnectionLimits::default() }, None).await;
    let mut busy = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(request("GET", "/held", "connection: close\r\n").as_bytes()).await.unwrap();
        busy.push(stream);
    }
    let refused = |answer: &[u8]| answer.starts_with(b"HTTP/1.1 503") && answer.windows(14).any(|window| window == b"retry-after: 1");
    // Until the four requests are seen at work, a newcomer may still push one out.
    until("a refusal", async || refused(&rest(&mut TcpStream::connect(server.addr).await.unwrap()).await)).await;
    let (head, body) = FULL.split_at(FULL.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4);
    assert!(String::from_utf8_lossy(head).contains(&format!("content-length: {}\r\n", body.len())));
    serde_json::from_slice::<preheat_image::api::ErrorBody>(body).unwrap();
    server.gate.add_permits(8);
    until("places are given back", async || {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        hello(&mut stream).await.is_ok()
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_lets_running_requests_finish_and_takes_no_new_ones() {
    let server = start(ConnectionLimits::default(), None).await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    hello(&mut idle).await.unwrap();
    let mut upload = TcpStream::connect(server.addr).await.unwrap();
    upload.write_all(request("PUT", "/upload", "content-length: 2000\r\n").as_bytes()).await.unwrap();
    upload.write_all(&[1; 1000]).await.unwrap();
    let mut held = TcpStream::connect(server.addr).await.unwrap();
    held.write_all(request("GET", "/held", "").as_bytes()).await.unwrap();
    // They are at work once others on newer connections were.
    hello(&mut TcpStream::connect(server.addr).await.unwrap()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    assert!(rest(&mut idle).await.is_empty());
    until("the listener is closed", async || TcpStream::connect(server.addr).await.is_err()).await;
    upload.write_all(&[1; 1000]).await.unwrap();
    server.gate.add_permits(1);
    assert!(rest(&mut upload).await.ends_with(b"2000"));
    assert!(rest(&mut held).await.ends_with(b"held"));
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_cuts_off_what_does_not_finish_in_time() {
    let server = start(ConnectionLimits { drain_seconds: 0, ..ConnectionLimits::default() }, None).await;
    let mut held = TcpStream::connect(server.addr).await.unwrap();
    held.write_all(request("GET", "/held", "").as_bytes()).await.unwrap();
    hello(&mut TcpStream::connect(server.addr).await.unwrap()).await.unwrap();
    server.stop().await;
    assert!(rest(&mut held).await.is_empty());
}

#[tokio::test]
async fn a_client_that_is_refused_while_it_sends_gets_to_know_why() {
    let server = start(ConnectionLimits::default(), None).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let size = 4 * 1024 * 1024;
        stream.write_all(request("PUT", "/refuse", &format!("content-length: {size}\r\n")).as_bytes()).await.unwrap();
        // It reads only when all is sent, as many clients do.
        stream.write_all(&vec![1; size]).await.unwrap();
        assert!(rest(&mut stream).await.starts_with(b"HTTP/1.1 413"));
    }
    server.stop().await;
}

#[tokio::test]
async fn large_heads_are_refused() {
    let server = start(ConnectionLimits { max_header_bytes: 8192, ..ConnectionLimits::default() }, None).await;
    let long = format!("x: {}\r\n", "a".repeat(9000));
    assert!(ask(server.addr, &request("GET", "/hello", &long)).await.starts_with("HTTP/1.1 431"));
    let many: String = (0..MAX_HEADERS + 1).map(|number| format!("x-{number}: a\r\n")).collect();
    assert!(ask(server.addr, &request("GET", "/hello", &many)).await.starts_with("HTTP/1.1 431"));
    let long = "/".repeat(9000);
    let answer = ask(server.addr, &request("GET", &long, "")).await;
    assert!(answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_thousand_malformed_requests_are_refused_and_the_service_goes_on() {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    let server = start(ConnectionLimits { header_seconds: 2, ..ConnectionLimits::default() }, None).await;
    let line = "(GET|PUT|get|\\x00|G E T|POST)( |  |\t|)(/hello|hello|http://x/hello|/%zz|\\*|)( |)(HTTP/1\\.1|HTTP/9\\.9|HTTP|)(\r\n|\n|)";
    let head = "((host|content-length|transfer-encoding|:|[a-z]{1,5})(:|: |)(x|-1|99999999999999999999|chunked|gzip|[\\x01-\\x7f]{0,9})(\r\n|\n|)){0,4}";
    let strategy =
        (line, head, "(\r\n|\n\n|)", "[\\x00-\\x7f]{0,40}").prop_map(|(line, head, end, body)| format!("{line}{head}{end}{body}"));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let requests: Vec<String> = (0..1000).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect();
    let addr = server.addr;
    let answers = futures_util::stream::iter(requests.into_iter().map(|request| async move {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.shutdown().await;
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{request:?}: {:?}", String::from_utf8_lossy(&answer));
        answer.starts_with(b"HTTP/1.1 4")
    }));
    let refused = answers.buffer_unordered(64).filter(|refused| std::future::ready(*refused)).count().await;
    assert!(refused > 500, "{refused}");
    hello(&mut TcpStream::connect(addr).await.unwrap()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn requests_that_two_readers_would_part_differently_are_refused() {
    let server = start(ConnectionLimits::default(), None).await;
    for more in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "content-length: +5\r\n",
        "content-length: 5, 6\r\n",
        "content-length : 5\r\n",
    ] {
        let smuggled = format!("{}hello{}", request("PUT", "/upload", more), request("GET", "/hello", "connection: close\r\n"));
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(smuggled.as_bytes()).await.unwrap();
        let _ = stream.shutdown().await;
        let answer = String::from_utf8_lossy(&rest(&mut stream).await).into_owned();
        assert!(!answer.ends_with("hello"), "{more}: {answer}");
    }
    server.stop().await;
}

#[test]
fn writes_stay_vectored() {
    struct Vectored;
    impl AsyncRead for Vectored {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut tokio::io::ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    impl AsyncWrite for Vectored {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            panic!("a write that is not vectored")
        }
        fn poll_write_vectored(self: Pin<&mut Self>, _: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
        }
        fn is_write_vectored(&self) -> bool {
            true
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let mut paced = Paced::new(Vectored, Arc::new(Pace::new(Phase::Head)));
    assert!(paced.is_write_vectored());
    let bufs = [io::IoSlice::new(b"one"), io::IoSlice::new(b"two")];
    let written = Pin::new(&mut paced).poll_write_vectored(&mut Context::from_waker(std::task::Waker::noop()), &bufs);
    assert!(matches!(written, Poll::Ready(Ok(6))));
}

#[test]
fn limits_that_are_none_are_refused() {
    assert!(ConnectionLimits::default().check().is_ok());
    for bad in [
        ConnectionLimits { max_header_bytes: 8191, ..ConnectionLimits::default() },
        ConnectionLimits { max_header_bytes: BUFFER + 1, ..ConnectionLimits::default() },
        ConnectionLimits { max_connections: 0, ..ConnectionLimits::default() },
        ConnectionLimits { slow_seconds: 0, ..ConnectionLimits::default() },
    ] {
        assert!(bad.check().is_err());
    }
}
