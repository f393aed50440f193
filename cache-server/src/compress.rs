//! Answers compressed with zstd while they stream.

use crate::budget::{LARGE_PIECE, Permit};
use crate::state::App;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use std::io;
use std::sync::Arc;
use zstd::stream::raw::{self, InBuffer, Operation as _, OutBuffer};

/// Fast rather than small: the answer should not wait for the processor.
const LEVEL: i32 = 1;
/// Memory of an encoder, and of what it makes of a piece, in bytes.
const MEMORY: usize = 2 * 1024 * 1024 + LARGE_PIECE;

/// An encoder with the permits for its memory.
pub(crate) struct Encoder {
    app: Arc<App>,
    encoder: raw::Encoder<'static>,
    _memory: Permit,
}

impl Encoder {
    /// An encoder for a blob that begins with `first`; none if it would gain little, or memory is short.
    pub(crate) fn begin(app: &Arc<App>, first: &[u8]) -> Option<Self> {
        let memory = app.budget.try_acquire_coder(MEMORY)?;
        let sample = first.get(..first.len().min(16 * 1024))?;
        if zstd::bulk::compress(sample, LEVEL).ok()?.len() > sample.len() / 10 * 9 {
            return None;
        }
        Some(Self { app: app.clone(), encoder: raw::Encoder::new(LEVEL).ok()?, _memory: memory })
    }

    /// Compresses a piece, or ends the frame when there is none. Output that did not fit comes with the next call; says whether all did.
    fn step(&mut self, input: Option<&mut InBuffer<'_>>) -> io::Result<(Bytes, bool)> {
        let mut buffer = self.app.budget.covered_buffer(LARGE_PIECE);
        let mut output = OutBuffer::around(buffer.as_mut());
        let done = match input {
            Some(input) => {
                self.encoder.run(input, &mut output)?;
                input.pos() == input.src.len()
            }
            None => self.encoder.finish(&mut output, true)? == 0,
        };
        let written = output.pos();
        buffer.truncate(written);
        Ok((Bytes::from_owner(buffer), done))
    }
}

enum Next {
    Piece,
    Rest(Bytes, usize),
    End,
    Done,
}

/// `pieces`, compressed. An error of `pieces` ends it without the end of the frame.
pub(crate) fn stream<S>(encoder: Encoder, pieces: S) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let state = (encoder, Box::pin(pieces), Next::Piece);
    stream::try_unfold(state, |(mut encoder, mut pieces, mut next)| async move {
        loop {
            let (piece, at) = match next {
                Next::Done => return Ok(None),
                Next::End => {
                    let (bytes, done) = encoder.step(None)?;
                    let next = if done { Next::Done } else { Next::End };
                    return Ok(Some((bytes, (encoder, pieces, next))));
                }
                Next::Rest(piece, at) => (piece, at),
                Next::Piece => match pieces.next().await.transpose()? {
                    Some(piece) => (piece, 0),
                    None => {
                        next = Next::End;
                        continue;
                    }
                },
            };
            let mut input = InBuffer::around(piece.get(at..).unwrap_or_default());
            let (bytes, done) = encoder.step(Some(&mut input))?;
            let at = at + input.pos();
            next = if done { Next::Piece } else { Next::Rest(piece, at) };
            // The encoder keeps what it is given until a block is full.
            if !bytes.is_empty() {
                return Ok(Some((bytes, (encoder, pieces, next))));
            }
        }
    })
}
