//! A call's values as wasmtime's.

use preheat_call::{Value, ValueType};
use wasmtime::{Val, ValType};

pub(crate) fn type_to_wasmtime(kind: ValueType) -> ValType {
    match kind {
        ValueType::I32 => ValType::I32,
        ValueType::I64 => ValType::I64,
        ValueType::F32 => ValType::F32,
        ValueType::F64 => ValType::F64,
    }
}

pub(crate) fn type_from_wasmtime(kind: &ValType) -> Option<ValueType> {
    match kind {
        ValType::I32 => Some(ValueType::I32),
        ValType::I64 => Some(ValueType::I64),
        ValType::F32 => Some(ValueType::F32),
        ValType::F64 => Some(ValueType::F64),
        _ => None,
    }
}

/// The name of a type, in the short form where the text format has one.
pub(crate) fn type_name(kind: &ValType) -> String {
    if ValType::eq(kind, &ValType::EXTERNREF) {
        "externref".into()
    } else if ValType::eq(kind, &ValType::FUNCREF) {
        "funcref".into()
    } else {
        kind.to_string()
    }
}

pub(crate) fn to_wasmtime(value: Value) -> Val {
    match value {
        Value::I32(value) => Val::I32(value),
        Value::I64(value) => Val::I64(value),
        Value::F32(value) => Val::F32(value.to_bits()),
        Value::F64(value) => Val::F64(value.to_bits()),
    }
}

pub(crate) fn from_wasmtime(value: &Val) -> Option<Value> {
    match value {
        Val::I32(value) => Some(Value::I32(*value)),
        Val::I64(value) => Some(Value::I64(*value)),
        Val::F32(bits) => Some(Value::F32(f32::from_bits(*bits))),
        Val::F64(bits) => Some(Value::F64(f64::from_bits(*bits))),
        _ => None,
    }
}
