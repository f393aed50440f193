//! Entering a guest in the middle: the frames from which its resume functions take what they need.

use super::enter::{Callee, call};
use super::owner::StorePointer;
use crate::error::Error;
use crate::resume::ResumeCode;
use crate::value::Slot;
use preheat_image::abi::{NONE, VALUE_SIZE, ValueType, WakeFrame};
use preheat_image::heap::{Frame, NO_SITE, Value};
use preheat_image::native::{RangeKind, ResumeRecord};

/// Wake frames of a call stack, checked: each goes with the resume function that it names, and each of these calls the next one.
///
/// Two slots' worth of a frame's front is one slot; all is made of slots, so that frames are aligned as code needs it.
#[derive(Debug)]
pub(crate) struct WakeFrames {
    block: Box<[Slot]>,
    /// Slots that are functions, which are not the same for every instance: which slot, and which function.
    functions: Vec<(usize, u32)>,
    // Offsets in the resume object's text: the enter trampoline of the outermost function's results, and its code.
    enter: u32,
    code: u32,
    results: Vec<ValueType>,
    resume: ResumeCode,
}

const _: () = assert!(size_of::<WakeFrame>() == VALUE_SIZE as usize && size_of::<Slot>() == VALUE_SIZE as usize);
const _: () = assert!(NO_SITE == NONE);

fn unfit(what: String) -> Error {
    Error::Frozen(what)
}

impl WakeFrames {
    /// Wake frames for `frames`, outermost first, of which there is at least one.
    ///
    /// # Errors
    /// When the resume object has no function for one, or one for other values, or they do not call each other.
    pub(crate) fn new<'a>(resume: &ResumeCode, frames: impl Iterator<Item = (&'a Frame, &'a [Value])>) -> Result<Self, Error> {
        let native = resume.native();
        let records = native.resume.as_ref().ok_or_else(|| unfit("there is no resume object".into()))?;
        let (mut block, mut functions) = (Vec::<Slot>::new(), Vec::new());
        let mut outermost: Option<&ResumeRecord> = None;
        // The type of what the frame before calls.
        let mut callee: Option<u32> = None;
        for (frame, values) in frames {
            let (function, site) = (frame.function.get(), frame.site.get());
            let place = if site == NONE { "which is imported".into() } else { format!("at {site:#x}") };
            let record = records.find(function, site);
            let record = record.ok_or_else(|| unfit(format!("the resume object has nothing for function {function} {place}")))?;
            let code = Self::code(resume, record)?;
            if callee.is_some_and(|callee| callee != record.ty.get()) {
                return Err(unfit(format!("function {function} {place} does not return what the frame before needs")));
            }
            let types = records.value_types(record)?;
            if !values.iter().map(|value| value.kind.get()).eq(types.iter().map(|ty| u32::from(*ty))) {
                return Err(unfit(format!("the values of function {function} {place} are not of the types that it needs")));
            }
            let size = (values.len() as u64 + 1) * u64::from(VALUE_SIZE);
            block.push(Slot::from(code) | Slot::from(size) << 64);
            for value in values {
                if let Some(function) = value.as_function() {
                    if (function as usize) >= resume.module().native().functions.len() {
                        return Err(unfit(format!("a frame has function {function}, which is not there")));
                    }
                    functions.push((block.len(), function));
                }
                let funcref = value.ty() == Some(ValueType::FuncRef);
                block.push(if funcref { 0 } else { Slot::from_le_bytes(value.bytes) });
            }
            outermost = outermost.or(Some(record));
            // The last one must be of an imported function, which calls nothing more.
            callee = Some(record.callee.get());
        }
        let outermost = outermost.filter(|_| callee == Some(NONE)).ok_or_else(|| unfit("the call stack has no end".into()))?;
        let ty = native.types.get(outermost.ty.get() as usize).ok_or_else(|| unfit("a type out of bounds".into()))?;
        let (_, results) = native.signature(ty)?;
        let results = results.iter().filter_map(|number| ValueType::from_number(*number)).collect();
        let enter = ty.enter.get();
        if resume.text_address(enter).is_none() || native.range(enter).is_none_or(|range| !is(range, RangeKind::Enter, enter)) {
            return Err(unfit(format!("function {} can't be entered", outermost.function)));
        }
        let code = outermost.code.get();
        Ok(Self { block: block.into(), functions, enter, code, results, resume: resume.clone() })
    }

    /// The address of the code of a resume function.
    fn code(resume: &ResumeCode, record: &ResumeRecord) -> Result<u64, Error> {
        let kind = if record.site.get() == NONE { RangeKind::Import } else { RangeKind::Function };
        let code = record.code.get();
        let range = resume.native().range(code).filter(|range| is(range, kind, code) && range.index == record.function);
        let address = range.and_then(|_| resume.text_address(code));
        address.ok_or_else(|| unfit(format!("the code of function {} in the resume object is out of bounds", record.function)))
    }

    /// The resume object.
    pub(crate) fn resume(&self) -> &ResumeCode {
        &self.resume
    }

    /// The types of what the outermost function returns.
    pub(crate) fn results(&self) -> &[ValueType] {
        &self.results
    }
}

fn is(range: &preheat_image::native::FunctionRange, kind: RangeKind, start: u32) -> bool {
    RangeKind::from_number(range.kind.get()) == Some(kind) && range.start.get() == start
}

/// Lets the guest go on in an instance of the module that `frames` are of, up to the end of its outermost function, whose results are left
/// in `values`.
///
/// # Errors
/// As [`call`]; or when there is no such instance.
///
/// # Panics
/// As [`call`]; there have to be as many values as results, and one.
pub(crate) fn resume(store: &mut StorePointer, instance: u32, frames: &WakeFrames, values: &mut [Slot]) -> Result<(), Error> {
    let inner = store.get_mut();
    let data = inner.instances.get(instance as usize).filter(|data| data.module.is(frames.resume.module()));
    let context = data.ok_or_else(|| unfit("it is of another module".into()))?.cells.base();
    let address = |offset: u32| frames.resume.text_address(offset).ok_or_else(|| unfit("code out of bounds".into()));
    let (enter, code) = (address(frames.enter)?, address(frames.code)?);
    // A copy only where something is the instance's own.
    let own = if frames.functions.is_empty() {
        None
    } else {
        let mut block = frames.block.clone();
        for (place, function) in &frames.functions {
            let reference = inner.reference(instance, *function).ok_or_else(|| unfit(format!("there is no function {function}")))?;
            block[*place] = Slot::from(reference);
        }
        Some(block)
    };
    let block = own.as_deref().unwrap_or(&frames.block);
    let callee = Callee { store: inner.id, enter, code, context, slots: frames.results.len().max(1) };
    values[0] = Slot::from(block.as_ptr().expose_provenance() as u64);
    // The callee is a resume function of the instance's module, its parameter the address of its wake frame, as `WakeFrames::new` checked. Both
    // outlive the call.
    call(store, &callee, values)
}
