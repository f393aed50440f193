//! Throwing: finding the handler among the guest's frames, and going there.

use super::owner::StorePointer;
use crate::registry::TEXTS;
use crate::stack::Stack;
use crate::store::StoreInner;
use preheat_image::abi::{NONE, TrapCode};
use preheat_image::native::{CallSite, HandlerRecord, NativeCode};
use std::arch::naked_asm;
use std::ops::Range;
use std::ptr;

/// Reads a word of the guest's stack.
///
/// # Safety
/// `stack` is the accessible part of the stack of a guest that does not run.
pub(super) unsafe fn word(stack: &Range<u64>, address: u64) -> Option<u64> {
    let within = address.is_multiple_of(8) && stack.contains(&address) && address + 8 <= stack.end;
    let place = ptr::with_exposed_provenance::<u64>(usize::try_from(address).ok().filter(|_| within)?);
    // SAFETY: an aligned word within the stack, as was checked; any bytes are a number.
    Some(unsafe { place.read() })
}

/// Where a thrown exception goes on.
#[derive(Debug, Clone, Copy)]
struct Landing {
    stack: u64,
    frame: u64,
    target: u64,
}

/// Throws an exception: goes to the landing pad of its handler. Returns why not if there is none in this call of the guest.
///
/// # Safety
/// The guest of the store has called, with its `exit_frame` set, and nothing in the frames since then is missed.
pub(super) unsafe fn throw(mut pointer: StorePointer, exception: u64) -> TrapCode {
    let found = {
        let store = pointer.get_mut();
        let stack = store.stack.as_ref().map_or(0..0, Stack::range);
        // SAFETY: the guest has called and waits.
        store.exceptions.tag(exception).and_then(|tag| unsafe { find(store, &stack, tag) })
    };
    match found {
        // SAFETY: the landing pad is of a frame that is there, and `find` has what it needs. No frame since then owns anything.
        Some(landing) => unsafe { land(exception, landing.stack, landing.frame, landing.target) },
        None => TrapCode::UncaughtException,
    }
}

/// The innermost handler of exceptions with `tag`.
///
/// # Safety
/// As [`word`].
unsafe fn find(store: &StoreInner, stack: &Range<u64>, tag: u64) -> Option<Landing> {
    let mut frame = store.record.exit_frame;
    loop {
        // SAFETY: as for this function.
        let return_to = unsafe { word(stack, frame.checked_add(8)?) }?;
        // SAFETY: as before.
        let outer = unsafe { word(stack, frame) }?;
        // The end of this call of the guest: what called it is not in any text.
        let text = TEXTS.find(return_to)?;
        // SAFETY: code of it is in a frame, so it is loaded.
        let code = unsafe { &*text.code };
        let native = code.native();
        let site = u32::try_from(return_to - text.text.start).ok().and_then(|offset| native.call_site(offset));
        if let Some(site) = site {
            // SAFETY: as for this function.
            if let Some(handler) = unsafe { handler(store, stack, native, site, outer, tag) } {
                let target = text.text.start + u64::from(handler.target.get());
                let landing = Landing { stack: outer - u64::from(site.frame_size.get()), frame: outer, target };
                return text.text.contains(&target).then_some(landing);
            }
        }
        frame = Some(outer).filter(|outer| *outer > frame)?;
    }
}

/// The handler at a call site, in the frame at `frame`, that takes exceptions with `tag`.
///
/// # Safety
/// As [`word`].
unsafe fn handler(
    store: &StoreInner,
    stack: &Range<u64>,
    native: &NativeCode<'_>,
    site: &CallSite,
    frame: u64,
    tag: u64,
) -> Option<HandlerRecord> {
    let bottom = frame.checked_sub(u64::from(site.frame_size.get()))?;
    for handler in native.handlers(site).ok()? {
        if handler.tag.get() == NONE {
            return Some(*handler);
        }
        // SAFETY: as for this function.
        let context = unsafe { word(stack, bottom.checked_add(u64::from(handler.context.get()))?) }?;
        let instance = store.instances.iter().find(|instance| instance.cells.base() == context)?;
        if instance.tag_identity(handler.tag.get()) == Some(tag) {
            return Some(*handler);
        }
    }
    None
}

/// All words of the guest's stack that are in use.
///
/// # Safety
/// As [`word`], and the guest's innermost frame is at `exit_frame`.
pub(super) unsafe fn words(store: &StoreInner) -> Vec<u64> {
    let stack = store.stack.as_ref().map_or(0..0, Stack::range);
    let start = store.record.exit_frame.next_multiple_of(8);
    // SAFETY: as for this function.
    (start..stack.end).step_by(8).filter_map(|address| unsafe { word(&stack, address) }).collect()
}

/// Goes to a landing pad.
#[unsafe(naked)]
unsafe extern "sysv64" fn land(exception: u64, stack: u64, frame: u64, target: u64) -> ! {
    naked_asm!("mov rax, rdi", "mov rsp, rsi", "mov rbp, rdx", "jmp rcx")
}
