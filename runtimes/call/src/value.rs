//! Values that go into and come out of core functions.

use crate::RunError;
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
}

/// Reads the arguments of a call of `name`, whose parameters are of these types.
///
/// # Errors
/// When they are more or fewer, or one is no value of its type.
pub fn parse_arguments(name: &str, kinds: &[ValueType], args: &[String]) -> Result<Vec<Value>, RunError> {
    if kinds.len() != args.len() {
        return Err(RunError::Usage(format!("`{name}` takes {} arguments, {} were given", kinds.len(), args.len())));
    }
    let parse = |(kind, text): (&ValueType, &String)| {
        kind.parse(text).ok_or_else(|| RunError::Usage(format!("`{text}` is no {kind:?}, which `{name}` takes here")))
    };
    kinds.iter().zip(args).map(parse).collect()
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
