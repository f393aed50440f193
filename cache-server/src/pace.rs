//! How fast the other end of a connection is: counts bytes, and the time in which only the other end is to blame that none move.
//!
//! A slow disk or bucket of ours must not look like a slow client. So time counts only while a write waits for room that the client makes by
//! reading, or while somebody waits for a request's body and none of it arrives.

use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are read and thrown away of a request that was refused before its end.
const MAX_LINGER_BYTES: u64 = 64 * 1024 * 1024;

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// TLS is being set up.
    Handshake,
    /// A request's head is coming.
    Head,
    /// A request is answered.
    Active,
    /// Nothing of the next request is there yet.
    Idle,
    /// The answer is out, and the rest of the request is thrown away so that the client reads the answer.
    Lingering,
}

/// Limits of time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) handshake: Duration,
    pub(crate) head: Duration,
    pub(crate) idle: Duration,
    pub(crate) linger: Duration,
    /// How long a client may be to blame before it is judged by how much it moved.
    pub(crate) window: Duration,
    /// What it has to move in that time, in bytes a second.
    pub(crate) min_rate: u64,
}

/// Why a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The phase lasts too long.
    TooLong(Phase),
    /// The client sends or reads too slowly.
    TooSlow,
}

/// The pace of one connection.
#[derive(Debug)]
pub(crate) struct Pace {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// When the phase began. Times are since `started`.
    since: Duration,
    /// Bytes in both directions since the client was last judged.
    moved: u64,
    /// How long it was to blame since then.
    blamed: Duration,
    /// Since when it is to blame, if it is.
    waiting: Option<Duration>,
    /// A read found nothing.
    reading: bool,
    /// A write found no room.
    writing: bool,
    /// Somebody waits for a request's body.
    wanted: bool,
    /// All that was answered is with the kernel.
    flushed: bool,
    /// The request's body was not read to its end.
    unread: bool,
}

impl State {
    fn enter(&mut self, phase: Phase, now: Duration) {
        self.phase = phase;
        self.since = now;
    }

    fn settle(&mut self, now: Duration) {
        if let Some(since) = self.waiting {
            self.blamed += now.saturating_sub(since);
        }
        self.waiting = (self.writing || (self.reading && self.wanted)).then_some(now);
    }
}

impl Pace {
    /// Of a connection that begins.
    #[must_use]
    pub(crate) fn new(phase: Phase) -> Self {
        let state = State {
            phase,
            since: Duration::ZERO,
            moved: 0,
            blamed: Duration::ZERO,
            waiting: None,
            reading: false,
            writing: false,
            wanted: false,
            flushed: true,
            unread: false,
        };
        Self { started: Instant::now(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long nothing has been asked for; `None` while a request is answered or its answer is on the way.
    #[must_use]
    pub(crate) fn unused_for(&self) -> Option<Duration> {
        let state = self.state();
        (state.phase != Phase::Active && (state.phase != Phase::Idle || state.flushed)).then(|| self.now().saturating_sub(state.since))
    }

    /// TLS is set up.
    pub(crate) fn handshake_done(&self) {
        self.state().enter(Phase::Head, self.now());
    }

    /// A request's head is there.
    pub(crate) fn begin(&self) {
        let now = self.now();
        let mut state = self.state();
        // Only what is with the kernel is done: otherwise many small requests, of which no answer is read, would each begin anew.
        if state.flushed {
            (state.moved, state.blamed) = (0, Duration::ZERO);
        }
        (state.wanted, state.unread) = (false, false);
        state.settle(now);
        state.enter(Phase::Active, now);
    }

    /// Its answer is made.
    pub(crate) fn end(&self) {
        let now = self.now();
        let mut state = self.state();
        state.wanted = false;
        state.settle(now);
        if state.phase == Phase::Active {
            state.enter(Phase::Idle, now);
        }
    }

    fn want(&self, wanted: bool) {
        let now = self.now();
        let mut state = self.state();
        state.wanted = wanted;
        state.settle(now);
    }

    fn read(&self, bytes: Option<usize>) {
        let now = self.now();
        let mut state = self.state();
        state.reading = bytes.is_none();
        state.moved += bytes.unwrap_or(0) as u64;
        state.settle(now);
        if state.phase == Phase::Idle && bytes.is_some_and(|bytes| bytes > 0) {
            state.enter(Phase::Head, now);
        }
    }

    fn wrote(&self, bytes: Option<usize>) {
        let now = self.now();
        let mut state = self.state();
        state.writing = bytes.is_none();
        state.flushed = false;
        state.moved += bytes.unwrap_or(0) as u64;
        state.settle(now);
        // What is still read of an answer keeps the connection from being idle.
        if state.phase == Phase::Idle {
            state.since = now;
        }
    }

    /// Whether to end the connection.
    #[must_use]
    pub(crate) fn judge(&self, limits: &Limits) -> Option<Verdict> {
        self.judge_at(limits, self.now())
    }

    fn judge_at(&self, limits: &Limits, now: Duration) -> Option<Verdict> {
        let mut state = self.state();
        state.settle(now);
        if state.blamed >= limits.window {
            let wanted = u64::try_from(u128::from(limits.min_rate) * state.blamed.as_millis() / 1000).unwrap_or(u64::MAX);
            if state.moved < wanted {
                return Some(Verdict::TooSlow);
            }
            (state.moved, state.blamed) = (0, Duration::ZERO);
        }
        let limit = match state.phase {
            Phase::Active => return None,
            // The rate counts while there is still something to write.
            Phase::Idle if state.writing => return None,
            Phase::Handshake => limits.handshake,
            Phase::Head => limits.head,
            Phase::Idle => limits.idle,
            Phase::Lingering => limits.linger,
        };
        (now.saturating_sub(state.since) >= limit).then_some(Verdict::TooLong(state.phase))
    }
}

/// A connection's bytes, counted. It lies below TLS, so that what counts is what went over the wire.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    pace: Arc<Pace>,
    shut: bool,
    lingered: u64,
}

impl<S> Paced<S> {
    /// Counts in `pace`.
    pub(crate) fn new(stream: S, pace: Arc<Pace>) -> Self {
        Self { stream, pace, shut: false, lingered: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.pace.read(polled.is_ready().then(|| buf.filled().len() - before));
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.pace.wrote(count(&polled));
        polled
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.pace.wrote(count(&polled));
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if polled.is_ready() {
            self.pace.state().flushed = true;
        }
        polled
    }

    /// Says that nothing more comes. If the client is still sending, as after a refusal of an upload, what it sends is thrown away for a
    /// while: closing at once would make the kernel reset the connection, and the client would never see why it was refused. The same after a
    /// handshake that failed: its first request may be on its way already.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.shut {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.shut = true;
            let now = this.pace.now();
            let mut state = this.pace.state();
            if !state.unread && !matches!(state.phase, Phase::Head | Phase::Handshake) {
                return Poll::Ready(Ok(()));
            }
            state.enter(Phase::Lingering, now);
        }
        let mut scratch = [0; 16 * 1024];
        while this.lingered < MAX_LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut scratch);
            // An error here is the end that this waits for.
            if ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)).is_err() || buf.filled().is_empty() {
                break;
            }
            this.lingered += buf.filled().len() as u64;
        }
        Poll::Ready(Ok(()))
    }
}

/// Bytes moved; `None` when there was no room.
fn count(polled: &Poll<io::Result<usize>>) -> Option<usize> {
    match polled {
        Poll::Ready(written) => Some(written.as_ref().copied().unwrap_or(0)),
        Poll::Pending => None,
    }
}

/// A request's body; notes when somebody waits for it.
#[derive(Debug)]
pub(crate) struct Upload {
    body: Incoming,
    pace: Arc<Pace>,
    waiting: bool,
    done: bool,
}

impl Upload {
    /// Notes in `pace`.
    pub(crate) fn new(body: Incoming, pace: Arc<Pace>) -> Self {
        Self { body, pace, waiting: false, done: false }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if self.waiting != polled.is_pending() {
            self.waiting = polled.is_pending();
            self.pace.want(self.waiting);
        }
        self.done |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.waiting {
            self.pace.want(false);
        }
        if !self.done && !self.body.is_end_stream() {
            self.pace.state().unread = true;
        }
    }
}

/// An answer's body; notes when there is no more of it.
#[derive(Debug)]
pub(crate) struct Answer {
    body: axum::body::Body,
    pace: Arc<Pace>,
}

impl Answer {
    /// Notes in `pace`.
    pub(crate) fn new(body: axum::body::Body, pace: Arc<Pace>) -> Self {
        Self { body, pace }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.pace.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        handshake: Duration::from_secs(5),
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        linger: Duration::from_secs(2),
        window: Duration::from_secs(30),
        min_rate: 1024,
    };

    fn waiting_since(pace: &Pace, seconds: u64) {
        pace.state().waiting = Some(Duration::from_secs(seconds));
    }

    fn at(pace: &Pace, seconds: u64) -> Option<Verdict> {
        pace.judge_at(&LIMITS, Duration::from_secs(seconds))
    }

    #[test]
    fn each_phase_has_its_limit() {
        for (phase, limit) in [(Phase::Handshake, 5), (Phase::Head, 10), (Phase::Idle, 60), (Phase::Lingering, 2)] {
            let pace = Pace::new(phase);
            assert_eq!(at(&pace, limit - 1), None);
            assert_eq!(at(&pace, limit), Some(Verdict::TooLong(phase)));
        }
        let pace = Pace::new(Phase::Head);
        pace.begin();
        assert_eq!(at(&pace, 1_000_000), None, "as long as we answer");
    }

    #[test]
    fn bytes_do_not_make_a_head_last_longer() {
        let pace = Pace::new(Phase::Idle);
        pace.read(Some(1));
        let since = pace.state().since;
        for _ in 0..100 {
            pace.read(Some(1));
            pace.read(None);
        }
        assert_eq!(pace.state().phase, Phase::Head);
        assert_eq!(pace.state().since, since);
        assert_eq!(pace.judge_at(&LIMITS, since + LIMITS.head), Some(Verdict::TooLong(Phase::Head)));
    }

    #[test]
    fn a_client_that_moves_too_little_while_it_is_to_blame_is_too_slow() {
        let pace = Pace::new(Phase::Head);
        pace.begin();
        pace.wrote(Some(30 * 1024 - 1));
        pace.wrote(None);
        waiting_since(&pace, 0);
        assert_eq!(at(&pace, 29), None);
        assert_eq!(at(&pace, 30), Some(Verdict::TooSlow));
    }

    #[test]
    fn a_client_that_moves_enough_is_judged_anew_each_time() {
        let pace = Pace::new(Phase::Head);
        pace.begin();
        pace.wrote(None);
        for round in 0..5 {
            waiting_since(&pace, round * 30);
            pace.state().moved += 30 * 1024;
            assert_eq!(at(&pace, (round + 1) * 30), None);
        }
        assert_eq!(at(&pace, 180), Some(Verdict::TooSlow));
    }

    #[test]
    fn waiting_for_us_is_not_the_clients_fault() {
        let pace = Pace::new(Phase::Head);
        pace.begin();
        // Nothing to read, but nobody wants it: the handler is busy.
        pace.read(None);
        assert!(pace.state().waiting.is_none());
        assert_eq!(at(&pace, 10_000), None);
        pace.want(true);
        assert!(pace.state().waiting.is_some());
        pace.read(Some(1));
        assert!(pace.state().waiting.is_none());
    }

    #[test]
    fn small_requests_of_which_no_answer_is_read_do_not_begin_anew() {
        let pace = Pace::new(Phase::Head);
        pace.begin();
        pace.wrote(None);
        waiting_since(&pace, 0);
        assert_eq!(at(&pace, 20), None);
        pace.end();
        pace.begin();
        assert!(pace.state().blamed >= Duration::from_secs(20));
        pace.wrote(Some(10));
        pace.state().flushed = true;
        pace.end();
        pace.begin();
        assert_eq!(pace.state().blamed, Duration::ZERO);
    }

    #[test]
    fn the_rest_of_an_answer_that_is_being_read_is_not_idle() {
        let pace = Pace::new(Phase::Head);
        pace.begin();
        pace.wrote(None);
        pace.end();
        pace.state().moved = u64::MAX / 2;
        assert_eq!(at(&pace, 61), None);
        pace.wrote(Some(1));
        assert!(at(&pace, 61 + 60).is_some());
    }
}
