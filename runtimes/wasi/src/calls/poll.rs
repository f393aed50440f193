//! Waiting for clocks and streams.

use super::Result;
use crate::abi::types::{self, Errno, Event, EventFdReadwrite, Eventrwflags, Eventtype, Subscription, SubscriptionU};
use crate::context::Context;
use crate::descriptor::Kind;
use crate::error::Stop;
use crate::host::Observation;
use rustix::event::{PollFd, PollFlags};
use std::time::{Duration, Instant};
use wiggle::{GuestMemory, GuestPtr};

/// The standard streams, the only things that a guest may really wait for.
#[derive(Clone, Copy)]
enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

/// Each of the streams: whether the guest waits for it, and whether it is ready.
#[derive(Default, Clone, Copy)]
struct Streams {
    wanted: [bool; 3],
    ready: [bool; 3],
}

/// What a subscription waits for.
enum Source {
    /// So long from the beginning of the call.
    Clock(Duration),
    Stream(Stream, Eventtype),
    /// Files are always ready. With the flags of the event.
    File(Eventtype, Eventrwflags),
}

pub(super) fn poll(
    context: &mut Context,
    memory: &mut GuestMemory<'_>,
    subscriptions: GuestPtr<Subscription>,
    events: GuestPtr<Event>,
    count: u32,
) -> Result<u32> {
    if count == 0 {
        // Nothing would ever end it.
        return Err(Errno::Inval.into());
    }
    let (subscriptions, events) = (subscriptions.as_array(count), events.as_array(count));
    context.spend(usize::try_from(count)?.saturating_mul(size_of::<Subscription>()))?;
    context.spend(usize::try_from(count)?.saturating_mul(size_of::<Event>()))?;

    if context.freezes_at_stdin() {
        // Before the guest's clock is read for the others.
        for (round, subscription) in subscriptions.iter().enumerate() {
            context.interrupt.check(round)?;
            if let SubscriptionU::FdRead(read) = memory.read(subscription?)?.u
                && context.is_stdin(read.file_descriptor.into())
            {
                return Err(Stop::Freeze.into());
            }
        }
    }
    let start = Instant::now();
    let mut streams = Streams::default();
    // The shortest time of the clocks, if there are any.
    let mut timeout: Option<Duration> = None;
    let mut ready = false;
    for (round, subscription) in subscriptions.iter().enumerate() {
        context.interrupt.check(round)?;
        let subscription = memory.read(subscription?)?;
        match source(context, &subscription.u)? {
            Source::Clock(time) => timeout = Some(timeout.map_or(time, |timeout| timeout.min(time))),
            Source::Stream(stream, _) => streams.wanted[stream as usize] = true,
            Source::File(..) => ready = true,
        }
    }
    // What is ready at once goes first: then no clock's time is over, whatever it is. So the answer does not depend on how fast we are.
    ready |= wait(context, &mut streams, Some(Duration::ZERO))?;
    let mut over = None;
    match (&context.recording, timeout) {
        _ if ready => {}
        (Some(recording), Some(time)) => {
            recording.sleep(time);
            over = Some(time);
        }
        _ => {
            wait(context, &mut streams, timeout)?;
            over = Some(start.elapsed());
        }
    }
    // Read again: the events may have been told to go where the subscriptions are, and there is no other place to keep so many.
    let mut occurred = 0;
    for (round, subscription) in subscriptions.iter().enumerate() {
        context.interrupt.check(round)?;
        let Subscription { userdata, u } = memory.read(subscription?)?;
        let (type_, flags, nbytes) = match source(context, &u)? {
            Source::Clock(time) if over.is_some_and(|over| time <= over) => (Eventtype::Clock, Eventrwflags::empty(), 0),
            Source::Stream(stream, type_) if streams.ready[stream as usize] => (type_, Eventrwflags::empty(), 1),
            Source::File(type_, flags) => (type_, flags, 1),
            Source::Clock(_) | Source::Stream(..) => continue,
        };
        let event = Event { userdata, error: Errno::Success, type_, fd_readwrite: EventFdReadwrite { nbytes, flags } };
        memory.write(events.as_ptr().add(occurred)?, event)?;
        occurred += 1;
    }
    Ok(occurred)
}

fn source(context: &mut Context, subscription: &SubscriptionU) -> Result<Source> {
    match subscription {
        SubscriptionU::Clock(clock) => {
            let absolute = clock.flags.contains(types::Subclockflags::SUBSCRIPTION_CLOCK_ABSTIME);
            let now = match clock.id {
                types::Clockid::Realtime if absolute => context.host.realtime(),
                types::Clockid::Monotonic if absolute => context.monotonic(),
                types::Clockid::Realtime | types::Clockid::Monotonic => 0,
                types::Clockid::ProcessCputimeId | types::Clockid::ThreadCputimeId => return Err(Errno::Inval.into()),
            };
            Ok(Source::Clock(Duration::from_nanos(clock.timeout.saturating_sub(now))))
        }
        SubscriptionU::FdRead(read) => {
            let fd = read.file_descriptor.into();
            match context.descriptors.kind(&context.grants, fd)? {
                Kind::Stdin => {
                    context.host.observe(Observation::Stdin);
                    Ok(Source::Stream(Stream::Stdin, Eventtype::FdRead))
                }
                Kind::File => {
                    let file = context.descriptors.file(fd)?;
                    let flags = if file.is_over(&context.grants)? { Eventrwflags::FD_READWRITE_HANGUP } else { Eventrwflags::empty() };
                    Ok(Source::File(Eventtype::FdRead, flags))
                }
                Kind::Stdout | Kind::Stderr | Kind::Directory => Err(Errno::Badf.into()),
            }
        }
        SubscriptionU::FdWrite(write) => {
            let fd = write.file_descriptor.into();
            match context.descriptors.kind(&context.grants, fd)? {
                Kind::Stdout => Ok(Source::Stream(Stream::Stdout, Eventtype::FdWrite)),
                Kind::Stderr => Ok(Source::Stream(Stream::Stderr, Eventtype::FdWrite)),
                Kind::File if !context.descriptors.file(fd)?.writable => Err(Errno::Perm.into()),
                Kind::File => Ok(Source::File(Eventtype::FdWrite, Eventrwflags::empty())),
                Kind::Stdin | Kind::Directory => Err(Errno::Badf.into()),
            }
        }
    }
}

/// Waits for one of the wanted streams or until `timeout` is over. Streams in memory are always ready. Returns whether one is.
fn wait(context: &Context, streams: &mut Streams, mut timeout: Option<Duration>) -> Result<bool> {
    let pollables = [
        (context.stdin.pollable(), PollFlags::IN),
        (context.stdout.pollable(), PollFlags::OUT),
        (context.stderr.pollable(), PollFlags::OUT),
    ];
    let mut places = Vec::new();
    let mut fds = Vec::new();
    for (index, (fd, flags)) in pollables.into_iter().enumerate().filter(|(index, _)| streams.wanted[*index]) {
        if let Some(fd) = fd {
            places.push(index);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        } else {
            streams.ready[index] = true;
            timeout = Some(Duration::ZERO);
        }
    }
    context.interrupt.wait(&mut fds, timeout)?;
    for (index, fd) in places.into_iter().zip(fds) {
        streams.ready[index] = !fd.revents().is_empty();
    }
    Ok(streams.ready.contains(&true))
}
