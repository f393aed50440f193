//! A request's streams, as wasmtime's WASI takes them.

use bytes::Bytes;
use preheat_call::{Input, InputWatch, Output, OutputBuffer, Request};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Gives the streams that `request` names.
pub(crate) fn apply(request: &Request, wasi: &mut wasmtime_wasi::WasiCtxBuilder) -> std::io::Result<()> {
    use std::os::fd::AsFd as _;
    use wasmtime_wasi::cli::{InputFile, OutputFile};
    let duplicate = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(std::fs::File::from);
    match &request.stdin {
        Input::Empty => {}
        Input::Bytes(bytes) => match &request.input_watch {
            Some(watch) => drop(wasi.stdin(Watched { pipe: MemoryInputPipe::new(bytes.clone()), watch: watch.clone() })),
            None => drop(wasi.stdin(MemoryInputPipe::new(bytes.clone()))),
        },
        Input::Inherit => {
            let file = duplicate(std::io::stdin().as_fd())?;
            // Reading a file never waits, so it needs no thread of its own; a pipe or a terminal may be polled.
            if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                wasi.stdin(InputFile::new(file));
            } else {
                wasi.inherit_stdin();
            }
        }
    }
    let is_terminal = |fd: std::os::fd::BorrowedFd<'_>| std::io::IsTerminal::is_terminal(&fd);
    match &request.stdout {
        Output::Discard => {}
        Output::Buffer(buffer) => drop(wasi.stdout(Sink(buffer.clone()))),
        // A guest asks whether it writes to a terminal, which a bare file does not tell.
        Output::Inherit if is_terminal(std::io::stdout().as_fd()) => drop(wasi.inherit_stdout()),
        Output::Inherit => drop(wasi.stdout(OutputFile::new(duplicate(std::io::stdout().as_fd())?))),
    }
    match &request.stderr {
        Output::Discard => {}
        Output::Buffer(buffer) => drop(wasi.stderr(Sink(buffer.clone()))),
        Output::Inherit if is_terminal(std::io::stderr().as_fd()) => drop(wasi.inherit_stderr()),
        Output::Inherit => drop(wasi.stderr(OutputFile::new(duplicate(std::io::stderr().as_fd())?))),
    }
    Ok(())
}

/// Input of a guest of which somebody wants to know when it asks for it.
#[derive(Clone)]
struct Watched {
    pipe: MemoryInputPipe,
    watch: InputWatch,
}

impl IsTerminal for Watched {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Watched {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        // Preview 3 is not linked, and nothing else asks for this.
        self.watch.note();
        StdinStream::async_stream(&self.pipe)
    }
}

impl InputStream for Watched {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.watch.note();
        self.pipe.read(size)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Watched {
    async fn ready(&mut self) {
        self.watch.note();
        self.pipe.ready().await;
    }
}

/// A buffer as a guest's output. It never waits.
#[derive(Clone)]
struct Sink(OutputBuffer);

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        // Who looks before writing, as he has to, never writes more than fits.
        if self.0.append(&bytes) { Ok(()) } else { Err(StreamError::Trap(wasmtime::format_err!("write beyond capacity"))) }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match self.0.room() {
            0 => Err(StreamError::Closed),
            room => Ok(room),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let fits = bytes.len().min(self.0.room());
        let _ = self.0.append(&bytes[..fits]);
        Poll::Ready(Ok(fits))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
