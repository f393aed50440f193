//! Values that go into and come out of core functions.

use std::fmt;

/// A type of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
}

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// 32-bit integer.
    I32(i32),
    /// 64-bit integer.
    I64(i64),
    /// 32-bit float.
    F32(f32),
    /// 64-bit float.
    F64(f64),
}

impl ValueType {
    pub(crate) fn to_wasmtime(self) -> wasmtime::ValType {
        match self {
            Self::I32 => wasmtime::ValType::I32,
            Self::I64 => wasmtime::ValType::I64,
            Self::F32 => wasmtime::ValType::F32,
            Self::F64 => wasmtime::ValType::F64,
        }
    }

    pub(crate) fn from_wasmtime(kind: &wasmtime::ValType) -> Option<Self> {
        match kind {
            wasmtime::ValType::I32 => Some(Self::I32),
            wasmtime::ValType::I64 => Some(Self::I64),
            wasmtime::ValType::F32 => Some(Self::F32),
            wasmtime::ValType::F64 => Some(Self::F64),
            _ => None,
        }
    }

    /// Reads a value of this type as people write it: decimal, or hexadecimal after `0x` for integers; integers may be signed or unsigned.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<Value> {
        let integer = |text: &str| -> Option<i128> {
            let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
            let magnitude = match digits.strip_prefix("0x") {
                Some(hex) => i128::from(u64::from_str_radix(hex, 16).ok()?),
                None => i128::from(digits.parse::<u64>().ok()?),
            };
            Some(if negative { -magnitude } else { magnitude })
        };
        match self {
            Self::I32 => {
                let value = integer(text)?;
                let bits = i32::try_from(value).ok().or_else(|| u32::try_from(value).ok().map(u32::cast_signed))?;
                Some(Value::I32(bits))
            }
            Self::I64 => {
                let value = integer(text)?;
                let bits = i64::try_from(value).ok().or_else(|| u64::try_from(value).ok().map(u64::cast_signed))?;
                Some(Value::I64(bits))
            }
            Self::F32 => text.parse().ok().map(Value::F32),
            Self::F64 => text.parse().ok().map(Value::F64),
        }
    }
}

impl Value {
    /// The type of this value.
    #[must_use]
    pub const fn kind(&self) -> ValueType {
        match self {
            Self::I32(_) => ValueType::I32,
            Self::I64(_) => ValueType::I64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
        }
    }

    pub(crate) fn to_wasmtime(self) -> wasmtime::Val {
        match self {
            Self::I32(value) => wasmtime::Val::I32(value),
            Self::I64(value) => wasmtime::Val::I64(value),
            Self::F32(value) => wasmtime::Val::F32(value.to_bits()),
            Self::F64(value) => wasmtime::Val::F64(value.to_bits()),
        }
    }

    pub(crate) fn from_wasmtime(value: &wasmtime::Val) -> Option<Self> {
        match value {
            wasmtime::Val::I32(value) => Some(Self::I32(*value)),
            wasmtime::Val::I64(value) => Some(Self::I64(*value)),
            wasmtime::Val::F32(bits) => Some(Self::F32(f32::from_bits(*bits))),
            wasmtime::Val::F64(bits) => Some(Self::F64(f64::from_bits(*bits))),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::I32(value) => value.fmt(f),
            Self::I64(value) => value.fmt(f),
            Self::F32(value) => value.fmt(f),
            Self::F64(value) => value.fmt(f),
        }
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::I32(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_may_be_signed_or_unsigned() {
        assert_eq!(ValueType::I32.parse("-1"), Some(Value::I32(-1)));
        assert_eq!(ValueType::I32.parse("4294967295"), Some(Value::I32(-1)));
        assert_eq!(ValueType::I32.parse("0xff"), Some(Value::I32(255)));
        assert_eq!(ValueType::I64.parse("18446744073709551615"), Some(Value::I64(-1)));
        for bad in ["4294967296", "-2147483649", "", "x", "1.5", "--1", "0x"] {
            assert_eq!(ValueType::I32.parse(bad), None, "{bad}");
        }
        assert_eq!(ValueType::F64.parse("1.5"), Some(Value::F64(1.5)));
    }
}
