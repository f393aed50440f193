//! The frames of a guest that has called the host, as words.

use super::exception::word;
use crate::stack::Stack;
use crate::store::StoreInner;
use std::ops::Range;

fn stack(store: &StoreInner) -> Range<u64> {
    store.stack.as_ref().map_or(0..0, Stack::range)
}

/// Of each frame from the one that called the host on, innermost first: the address to which the call in it returns, and its frame pointer.
/// It ends where frames do not lead upwards or are not on the guest's stack; who looks at them sees before that where the host entered.
pub(crate) fn callers(store: &StoreInner) -> impl Iterator<Item = (u64, u64)> {
    let stack = stack(store);
    let mut frame = store.record.exit_frame;
    std::iter::from_fn(move || {
        // SAFETY: the guest does not run while its store is borrowed.
        let return_to = unsafe { word(&stack, frame.checked_add(8)?)? };
        // SAFETY: as above.
        let outer = unsafe { word(&stack, frame)? };
        frame = Some(outer).filter(|outer| *outer > frame)?;
        Some((return_to, outer))
    })
}

/// The 16 bytes at `address` of the guest's stack. `None` if they are not there, or below where it called the host.
pub(crate) fn value(store: &StoreInner, address: u64) -> Option<[u8; 16]> {
    let stack = store.record.exit_frame.max(stack(store).start)..stack(store).end;
    // SAFETY: the guest does not run while its store is borrowed.
    let low = unsafe { word(&stack, address)? };
    // SAFETY: as above.
    let high = unsafe { word(&stack, address.checked_add(8)?)? };
    Some((u128::from(low) | u128::from(high) << 64).to_le_bytes())
}
