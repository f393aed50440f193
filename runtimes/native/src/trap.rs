//! What is known of a trap: first in numbers, noted where it happened, then in words.

use crate::store::StoreInner;
use preheat_image::abi::TrapCode;
use preheat_image::native::RangeKind;
use std::fmt;

/// Most frames of a guest that are noted.
const FRAMES: usize = 48;

/// A trap as it was noted, perhaps in a signal handler: no memory is allocated for it.
#[derive(Debug)]
pub(crate) struct RawTrap {
    pub(crate) code: TrapCode,
    // Whether the first address is that of an instruction, not one to which a call returns.
    pub(crate) exact: bool,
    count: usize,
    addresses: [u64; FRAMES],
}

impl RawTrap {
    pub(crate) const fn new() -> Self {
        Self { code: TrapCode::Host, exact: false, count: 0, addresses: [0; FRAMES] }
    }

    /// Begins a new one.
    pub(crate) fn begin(&mut self, code: TrapCode, at: Option<u64>) {
        self.code = code;
        self.exact = at.is_some();
        self.count = 0;
        if let Some(at) = at {
            self.push(at);
        }
    }

    /// Adds an address. Whether there is room for more.
    pub(crate) fn push(&mut self, address: u64) -> bool {
        if let Some(place) = self.addresses.get_mut(self.count) {
            *place = address;
            self.count += 1;
        }
        self.count < FRAMES
    }

    /// What the addresses mean.
    pub(crate) fn frames(&self, store: &StoreInner) -> Vec<Frame> {
        let addresses = self.addresses[..self.count].iter().enumerate();
        // A call returns behind itself.
        addresses.filter_map(|(number, address)| Frame::of(store, address - u64::from(number > 0 || !self.exact))).collect()
    }
}

/// A frame of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Index of the function in its module.
    pub function: u32,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where in the Wasm bytes of the module the instruction is, if it is known.
    pub offset: Option<u32>,
}

impl Frame {
    fn of(store: &StoreInner, address: u64) -> Option<Self> {
        let address = usize::try_from(address).ok()?;
        let codes = store.instances.iter().flat_map(|instance| instance.codes().map(move |code| (&instance.module, code)));
        let (module, code) = codes.into_iter().find(|(_, code)| code.text().contains(&address))?;
        let native = code.native();
        let offset = u32::try_from(address - code.text().start).ok()?;
        let range = native.range(offset)?;
        (RangeKind::from_number(range.kind.get()) == Some(RangeKind::Function)).then(|| Self {
            function: range.index.get(),
            name: module.native().name(range.index.get()).map(str::to_owned),
            offset: native.wasm_offset(offset),
        })
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wasm function {}", self.function)?;
        if let Some(name) = &self.name {
            write!(f, " `{}`", name.escape_debug())?;
        }
        self.offset.map_or(Ok(()), |offset| write!(f, " at {offset:#x}"))
    }
}

pub(crate) fn write_frames(f: &mut fmt::Formatter<'_>, frames: &[Frame]) -> fmt::Result {
    frames.iter().enumerate().try_for_each(|(number, frame)| write!(f, "\n  {number}: {frame}"))
}

/// Why the guest was stopped, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// Why.
    pub code: TrapCode,
    /// The guest's frames, innermost first; tail calls leave none. At most 48.
    pub frames: Vec<Frame>,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.message())?;
        write_frames(f, &self.frames)
    }
}

impl std::error::Error for Trap {}

impl Trap {
    /// A trap outside of any function of a guest, such as in the initialisation of an instance.
    pub(crate) fn outside(code: TrapCode) -> Box<Self> {
        Box::new(Self { code, frames: Vec::new() })
    }
}
