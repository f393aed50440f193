//! As much of WASI preview 1 as programs need that read standard input and write standard output: the same for both engines, so that
//! what differs is their code.

const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const INVAL: i32 = 28;
const NOENT: i32 = 44;
const NOSYS: i32 = 52;

/// What a call comes to.
pub enum Outcome {
    /// The number that the function gives the guest.
    Errno(i32),
    /// The guest wants to end.
    Exit,
}

/// A program's surroundings.
#[derive(Default)]
pub struct Guest {
    args: Vec<String>,
    stdin: Vec<u8>,
    stdout: Vec<u8>,
    exited: bool,
    read: usize,
    ticks: u64,
    random: u32,
}

impl Guest {
    /// With these arguments, the program's name first, and this standard input.
    #[must_use]
    pub fn new(args: &[String], stdin: &[u8]) -> Self {
        Self { args: args.to_vec(), stdin: stdin.to_vec(), random: 1, ..Self::default() }
    }

    /// The function `name`, which found `memory` and `args`.
    pub fn call(&mut self, name: &str, memory: &mut [u8], args: &[u64]) -> Outcome {
        if name == "proc_exit" {
            self.exited = true;
            return Outcome::Exit;
        }
        Outcome::Errno(self.function(name, &mut Memory(memory), args).unwrap_or(INVAL))
    }

    /// Whether the guest said that it ends.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        self.exited
    }

    /// What was written to standard output and to standard error.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.stdout)
    }

    /// `None` for addresses out of bounds.
    fn function(&mut self, name: &str, memory: &mut Memory<'_>, args: &[u64]) -> Option<i32> {
        let arg = |index: usize| args.get(index).and_then(|arg| usize::try_from(*arg).ok());
        match name {
            "args_sizes_get" => {
                memory.write_u32(arg(0)?, self.args.len())?;
                memory.write_u32(arg(1)?, self.args.iter().map(|arg| arg.len() + 1).sum())?;
            }
            "args_get" => {
                let (mut pointer, mut at) = (arg(0)?, arg(1)?);
                for word in &self.args {
                    memory.write_u32(pointer, at)?;
                    memory.write(at, word.as_bytes())?;
                    memory.write(at + word.len(), &[0])?;
                    (pointer, at) = (pointer + 4, at + word.len() + 1);
                }
            }
            "environ_sizes_get" => {
                memory.write_u32(arg(0)?, 0)?;
                memory.write_u32(arg(1)?, 0)?;
            }
            "environ_get" | "sched_yield" | "fd_close" => {}
            "clock_res_get" => memory.write(arg(1)?, &1u64.to_le_bytes())?,
            "clock_time_get" => {
                self.ticks += 1000;
                memory.write(arg(2)?, &(1_700_000_000_000_000_000 + self.ticks).to_le_bytes())?;
            }
            "random_get" => {
                for at in 0..arg(1)? {
                    self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    memory.write(arg(0)? + at, &self.random.to_be_bytes()[..1])?;
                }
            }
            "fd_fdstat_get" if arg(0)? < 3 => {
                // A character device that can be read and written.
                let mut stat = [0; 24];
                (stat[0], stat[8], stat[16]) = (2, 0x4a, 0x4a);
                memory.write(arg(1)?, &stat)?;
            }
            "fd_filestat_get" if arg(0)? < 3 => {
                let mut stat = [0; 64];
                stat[16] = 2;
                memory.write(arg(1)?, &stat)?;
            }
            "fd_fdstat_set_flags" if arg(0)? < 3 => {}
            "fd_write" if (1..3).contains(&arg(0)?) => {
                let mut written = 0;
                for index in 0..arg(2)? {
                    let (at, len) = memory.vector(arg(1)? + 8 * index)?;
                    let bytes = memory.0.get(at..at.checked_add(len)?)?;
                    self.stdout.extend_from_slice(bytes);
                    written += len;
                }
                memory.write_u32(arg(3)?, written)?;
            }
            "fd_read" if arg(0)? == 0 => {
                let before = self.read;
                for index in 0..arg(2)? {
                    let (at, len) = memory.vector(arg(1)? + 8 * index)?;
                    let rest = &self.stdin[self.read..];
                    let rest = &rest[..rest.len().min(len)];
                    memory.write(at, rest)?;
                    self.read += rest.len();
                }
                memory.write_u32(arg(3)?, self.read - before)?;
            }
            // Go waits for its standard streams; they are always ready.
            "poll_oneoff" => {
                let count = arg(2)?;
                for index in 0..count {
                    let user = memory.0.get(arg(0)? + 48 * index..)?.first_chunk::<8>().copied()?;
                    let kind = *memory.0.get(arg(0)? + 48 * index + 8)?;
                    let mut event = [0; 32];
                    event[..8].copy_from_slice(&user);
                    event[10] = kind;
                    memory.write(arg(1)? + 32 * index, &event)?;
                }
                memory.write_u32(arg(3)?, count)?;
            }
            _ if name.starts_with("path_") => return Some(NOENT),
            _ if name.starts_with("fd_") => return Some(BADF),
            _ => return Some(NOSYS),
        }
        Some(SUCCESS)
    }
}

struct Memory<'a>(&'a mut [u8]);

impl Memory<'_> {
    fn write(&mut self, at: usize, bytes: &[u8]) -> Option<()> {
        self.0.get_mut(at..at.checked_add(bytes.len())?)?.copy_from_slice(bytes);
        Some(())
    }

    fn write_u32(&mut self, at: usize, value: usize) -> Option<()> {
        self.write(at, &u32::try_from(value).ok()?.to_le_bytes())
    }

    /// An address and a length.
    fn vector(&self, at: usize) -> Option<(usize, usize)> {
        let word = |at: usize| self.0.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        Some((word(at)?, word(at + 4)?))
    }
}
