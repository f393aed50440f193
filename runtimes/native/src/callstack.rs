//! The call stack of a guest, taken out of its machine frames.
//!
//! Code that was compiled to be frozen keeps what it needs behind each call in its frame, at a place that the code object tells by the
//! address to which the call returns. So the guest's stack, followed by frame pointers from where it called the host, is its call stack in Wasm
//! terms.

use crate::capture::captured;
use crate::error::Error;
use crate::host::Caller;
use crate::instance::InstanceData;
use crate::store::{AsStore as _, StoreInner};
use crate::sys::frames;
use preheat_image::abi::{VALUE_SIZE, ValueType};
use preheat_image::heap::Value;
use preheat_image::native::RangeKind;

/// A call stack, outermost function first. The last frame is that of the imported function in which the program was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedStack {
    frames: Vec<CapturedFrame>,
}

/// An activation of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedFrame {
    /// Index of the function in the module.
    pub function: u32,
    /// Where in the Wasm bytes of the module the call instruction is in which it waits. `None` for the imported function.
    pub site: Option<u32>,
    /// What it needs to go on behind the call; for the imported function, its parameters.
    pub values: Vec<Value>,
}

impl CapturedStack {
    /// Its frames, outermost first.
    #[must_use]
    pub fn frames(&self) -> &[CapturedFrame] {
        &self.frames
    }
}

/// A call of a host function by capture code: which import, and its parameters before it could change them.
#[derive(Debug)]
pub(crate) struct HostCall {
    pub(crate) exit_frame: u64,
    pub(crate) import: u32,
    pub(crate) params: Vec<u128>,
}

fn refused(what: impl Into<String>) -> Error {
    Error::Freeze(what.into())
}

impl<T: 'static> Caller<'_, T> {
    /// Takes the call stack of the guest that called this host function: what [`Instance::capture`](crate::Instance::capture) does not have.
    ///
    /// # Errors
    /// When the code was not compiled to be frozen, other instances take part, the host function was not called by the guest or has called
    /// it in between, or a frame holds what can't be named in a snapshot.
    pub fn capture(&self) -> Result<CapturedStack, Error> {
        let store = self.pointer().get();
        let [data] = &*store.instances else {
            return Err(refused(format!("there are {} instances in the store", store.instances.len())));
        };
        if !data.module.native().captures() {
            return Err(refused("the code was not compiled for it"));
        }
        let call = store.host_call.as_ref().filter(|call| store.depth == 1 && call.exit_frame == store.record.exit_frame);
        let call = call.ok_or_else(|| refused("the guest did not call the host, or was called by it in between"))?;
        let mut found = vec![imported(store, data, call)?];
        for (return_to, frame) in frames::callers(store) {
            match frame_of(store, data, return_to, frame)? {
                Some(frame) => found.push(frame),
                None => {
                    found.reverse();
                    return Ok(CapturedStack { frames: found });
                }
            }
        }
        Err(refused("the guest's stack has no beginning"))
    }
}

/// The frame of the imported function.
fn imported(store: &StoreInner, data: &InstanceData, call: &HostCall) -> Result<CapturedFrame, Error> {
    let native = data.module.native();
    let (params, _) = native.signature(native.type_of(call.import)?)?;
    let value = |(number, bits): (&u8, &u128)| {
        let ty = ValueType::from_number(*number).ok_or("of unknown type")?;
        captured(store, 0, ty, bits.to_le_bytes())
    };
    let values = params.iter().zip(&call.params).map(value).collect::<Result<Vec<_>, _>>();
    let values = values.map_err(|what| refused(format!("a parameter of the imported function {} is {what}", call.import)))?;
    Ok(CapturedFrame { function: call.import, site: None, values })
}

/// The frame at the frame pointer `frame`, to which a call returns; `None` if it is where the host entered.
fn frame_of(store: &StoreInner, data: &InstanceData, return_to: u64, frame: u64) -> Result<Option<CapturedFrame>, Error> {
    let found = data.codes().find_map(|code| {
        let text = code.text();
        let offset = usize::try_from(return_to).ok()?.checked_sub(text.start).filter(|offset| *offset < text.len())?;
        Some((code.native(), u32::try_from(offset).ok()?))
    });
    let (native, offset) = found.ok_or_else(|| refused("code of another module is on the stack"))?;
    let range = offset.checked_sub(1).and_then(|call| native.range(call)).ok_or_else(|| refused("unknown code is on the stack"))?;
    match RangeKind::from_number(range.kind.get()) {
        Some(RangeKind::Enter) => return Ok(None),
        Some(RangeKind::Function) => {}
        _ => return Err(refused("code of the engine is on the stack")),
    }
    let unknown = || refused(format!("function {} can't be captured where it is", range.index));
    let site = native.site(offset).ok_or_else(unknown)?;
    let bottom = frame.checked_sub(u64::from(site.frame.get())).ok_or_else(unknown)?;
    let value = |value: &preheat_image::native::SiteValue| {
        let bytes = frames::value(store, bottom + u64::from(u32::from(value.slot.get()) * VALUE_SIZE)).ok_or("not on the stack")?;
        captured(store, 0, ValueType::from_number(value.ty).ok_or("of unknown type")?, bytes)
    };
    let values = native.site_values(site)?.iter().map(value).collect::<Result<Vec<_>, _>>();
    let values = values.map_err(|what| refused(format!("a local or operand of function {} is {what}", site.function)))?;
    Ok(Some(CapturedFrame { function: site.function.get(), site: Some(site.site.get()), values }))
}
