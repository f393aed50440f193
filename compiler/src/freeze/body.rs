//! A function's instructions, validated and kept: resume functions translate some of them twice, and liveness is found from the end.

use super::FunctionSites;
use super::sites::{Call, MAX_VALUES, too_many};
use crate::CompileError;
use crate::module::{Module, impossible, narrow};
use crate::signature::{operand_type, value_type};
use preheat_image::abi::ValueType;
use wasmparser::{FuncValidator, FunctionBody, Operator, ValidatorResources};

/// A validated body.
pub(crate) struct CheckedBody<'a> {
    /// Types of parameters and locals.
    pub(crate) locals: Vec<ValueType>,
    /// How many of them are parameters.
    pub(crate) params: usize,
    /// The instructions with their offsets in the Wasm bytes.
    pub(crate) operators: Vec<(Operator<'a>, u32)>,
}

/// Validates the body of `function`, and finds its sites. Only those at `wanted` offsets get the heights of the blocks around them.
///
/// # Errors
/// When the body is not valid, or there is more to keep at its calls than fits.
pub(crate) fn read<'a>(
    module: &Module<'_>,
    function: u32,
    body: &FunctionBody<'a>,
    validator: &mut FuncValidator<ValidatorResources>,
    wanted: &[u32],
) -> Result<(CheckedBody<'a>, FunctionSites), CompileError> {
    let mut locals = module.types[module.functions[function as usize] as usize].params.clone();
    let params = locals.len();
    let mut reader = body.get_binary_reader();
    for _ in 0..reader.read_var_u32()? {
        let offset = reader.original_position();
        let count = reader.read_var_u32()?;
        let ty: wasmparser::ValType = reader.read()?;
        // Checks that there are not too many.
        validator.define_locals(offset, count, ty)?;
        // Validation takes no locals of any type for granted.
        if count == 0 {
            continue;
        }
        let ty = value_type(ty).ok_or_else(|| impossible("an unknown local"))?;
        locals.extend(std::iter::repeat_n(ty, count as usize));
    }
    let mut checked = CheckedBody { locals, params, operators: Vec::new() };
    let (mut calls, mut operands) = (Vec::new(), Vec::new());
    let mut reader = body.get_operators_reader()?;
    while !reader.eof() {
        let (operator, position) = reader.read_with_offset()?;
        let offset = narrow(position, "the module")?;
        let found = match operator {
            Operator::Call { .. } | Operator::CallIndirect { .. } => {
                // What is below the arguments is as it is before and after the call, which has yet to be validated.
                let before = validator.operand_stack_height() as usize;
                let reachable = validator.get_control_frame(0).is_some_and(|frame| !frame.unreachable);
                reachable.then_some(before)
            }
            _ => None,
        };
        validator.op(position, &operator)?;
        if let Some(before) = found {
            let (arguments, results) = arity(module, &operator);
            let below = before.checked_sub(arguments).ok_or_else(|| impossible("a call with too few operands"))?;
            if operands.len() + below > MAX_VALUES {
                return Err(too_many(module, function));
            }
            let first = operands.len();
            let types = (0..below).map(|height| validator.get_operand_type(below + results - 1 - height).flatten().and_then(operand_type));
            operands.extend(types.map_while(|ty| ty));
            if operands.len() < first + below {
                // A block in dead code, with operands of any type below.
                operands.truncate(first);
                checked.operators.push((operator, offset));
                continue;
            }
            let mut heights = Vec::new();
            if wanted.binary_search(&offset).is_ok() {
                let depths = 0..validator.control_stack_height() as usize;
                heights.extend(depths.rev().filter_map(|depth| validator.get_control_frame(depth)).map(|frame| frame.height));
            }
            calls.push(Call { operator: checked.operators.len(), offset, operands: first..operands.len(), heights });
        }
        checked.operators.push((operator, offset));
    }
    reader.finish()?;
    let size = body.range().len();
    let sites = FunctionSites::new(&checked, size, calls, operands).ok_or_else(|| too_many(module, function))?;
    Ok((checked, sites))
}

/// How many operands a call takes, and how many it gives.
fn arity(module: &Module<'_>, call: &Operator<'_>) -> (usize, usize) {
    let Some(ty) = module.called_type(call) else { return (0, 0) };
    let ty = &module.types[ty as usize];
    let index = usize::from(matches!(call, Operator::CallIndirect { .. }));
    (ty.params.len() + index, ty.results.len())
}
