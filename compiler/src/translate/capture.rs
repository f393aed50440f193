//! Capture code: what is live at a site is stored before its call, so that a frozen program's state is in its frames.
//!
//! The *shadow frame* is an explicit slot of the machine frame, with a fixed place for each local and for operands by their height. It goes
//! with the frame, whatever way that is left, and costs nothing on entry. A store is left out where the shadow frame surely holds the value
//! already. What it holds is followed along forward branches; where they meet it is what all agree on, and nothing at the header of a loop.

use super::{Region, Translator, local, record};
use crate::freeze::{FunctionSites, Shadow};
use cranelift_codegen::entity::packed_option::PackedOption;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{InstBuilder as _, StackSlot, StackSlotData, StackSlotKind, Value};
use preheat_image::abi::VALUE_SIZE;

/// Slots of a function times its instructions up to which is followed what the shadow frame holds beyond branches.
const MAX_FOLLOWED: usize = 1 << 26;

/// What the slots of the shadow frame are known to hold.
pub(super) type Held = Vec<PackedOption<Value>>;

/// How a function is captured.
pub(super) struct Capture<'a> {
    sites: &'a FunctionSites,
    shadow: &'a Shadow,
    slot: StackSlot,
    held: Held,
    /// Whether to keep what is held at branches.
    follow: bool,
}

impl<'a> Translator<'a, '_> {
    /// Makes the shadow frame.
    pub(super) fn begin_capture(&mut self, sites: &'a FunctionSites, shadow: &'a Shadow) -> StackSlot {
        let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, shadow.size(), 4);
        let slot = self.builder.create_sized_stack_slot(slot);
        let slots = usize::from(shadow.slots);
        let follow = slots.saturating_mul(sites.instructions()) < MAX_FOLLOWED;
        self.capture = Some(Capture { sites, shadow, slot, held: vec![None.into(); slots], follow });
        slot
    }

    /// Stores what is live at the current instruction, a call whose arguments are popped.
    pub(super) fn store_site(&mut self) {
        let Some(capture) = &self.capture else { return };
        let (sites, shadow) = (capture.sites, capture.shadow);
        // A call that is no site is in dead code.
        let Some(layout) = sites.at(self.offset) else { return };
        debug_assert_eq!(layout.operands.len(), self.stack.len(), "the layout has the operands");
        for index in layout.locals {
            let value = self.builder.use_var(local(*index));
            self.store_shadow(shadow.local(*index), value);
        }
        for (height, position) in (0u16..).zip(0..layout.operands.len()) {
            // Not put back: the second part of a condition has the same operands below, and does not come by here.
            let value = self.canonical(self.stack[position]);
            self.store_shadow(shadow.operand(height), value);
        }
    }

    fn store_shadow(&mut self, place: u16, value: Value) {
        let value = self.builder.func.dfg.resolve_aliases(value);
        let Some(capture) = &mut self.capture else { return };
        let held = &mut capture.held[usize::from(place)];
        if held.expand().is_some_and(|held| self.builder.func.dfg.resolve_aliases(held) == value) {
            return;
        }
        *held = value.into();
        let slot = capture.slot;
        let flags = self.in_region(record(), Region::Shadow);
        let address = self.builder.ins().stack_addr(I64, slot, 0);
        // Fewer than 2^16 slots.
        let place = i32::from(place) * VALUE_SIZE.cast_signed();
        self.builder.ins().store(flags, value, address, place);
    }

    /// What the shadow frame holds; `None` where that is not followed.
    pub(super) fn held(&self) -> Option<Held> {
        self.capture.as_ref().filter(|capture| capture.follow).map(|capture| capture.held.clone())
    }

    /// From here on the shadow frame holds what it held elsewhere.
    pub(super) fn set_held(&mut self, held: Option<Held>) {
        match (&mut self.capture, held) {
            (Some(capture), Some(held)) => capture.held = held,
            _ => self.forget_held(),
        }
    }

    /// From here on nothing is known of the shadow frame.
    pub(super) fn forget_held(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.held.fill(None.into());
        }
    }

    /// Takes from `joined` what is not held here too.
    pub(super) fn join_held(&mut self, joined: &mut Option<Held>) {
        let Some(capture) = self.capture.as_ref().filter(|capture| capture.follow) else { return };
        let Some(joined) = joined else {
            *joined = Some(capture.held.clone());
            return;
        };
        for (joined, held) in joined.iter_mut().zip(&capture.held) {
            if *joined != *held {
                *joined = None.into();
            }
        }
    }

    /// A branch to the frame at `position` is made here.
    pub(super) fn hold_at(&mut self, position: usize) {
        let mut held = self.frames[position].held.take();
        self.join_held(&mut held);
        let frame = &mut self.frames[position];
        frame.held = held;
        frame.exit_reached = true;
    }
}
