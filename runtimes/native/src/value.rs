//! Values that cross the border.

use crate::error::Error;
use crate::func::Func;
use crate::objects::{ExnRef, ExternRef};
use crate::store::StoreInner;
use crate::types::name;
use preheat_image::abi::ValueType;

/// A slot in which a value crosses the border: as in `preheat_image::abi`, the value is in the first bytes.
pub(crate) type Slot = u128;

/// A value.
#[derive(Debug, Clone)]
pub enum Val {
    /// 32-bit integer.
    I32(i32),
    /// 64-bit integer.
    I64(i64),
    /// Single precision, as bits.
    F32(u32),
    /// Double precision, as bits.
    F64(u64),
    /// Vector.
    V128(u128),
    /// Function or null.
    FuncRef(Option<Func>),
    /// Something of the host, or null.
    ExternRef(Option<ExternRef>),
    /// An exception or null.
    ExnRef(Option<ExnRef>),
}

impl Val {
    /// Its type.
    #[must_use]
    pub fn ty(&self) -> ValueType {
        match self {
            Self::I32(_) => ValueType::I32,
            Self::I64(_) => ValueType::I64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::V128(_) => ValueType::V128,
            Self::FuncRef(_) => ValueType::FuncRef,
            Self::ExternRef(_) => ValueType::ExternRef,
            Self::ExnRef(_) => ValueType::ExnRef,
        }
    }

    /// As a slot, if it is of type `ty`.
    pub(crate) fn to_slot(&self, store: &mut StoreInner, ty: ValueType) -> Result<Slot, Error> {
        if self.ty() != ty {
            return Err(Error::Type(format!("{} where {} is needed", name(self.ty()), name(ty))));
        }
        Ok(match self {
            Self::I32(value) => Slot::from(value.cast_unsigned()),
            Self::I64(value) => Slot::from(value.cast_unsigned()),
            Self::F32(bits) => Slot::from(*bits),
            Self::F64(bits) => Slot::from(*bits),
            Self::V128(value) => *value,
            Self::FuncRef(None) | Self::ExternRef(None) | Self::ExnRef(None) => 0,
            Self::FuncRef(Some(func)) => Slot::from(func.reference(store)?),
            Self::ExternRef(Some(reference)) => Slot::from(reference.handle(store)?),
            Self::ExnRef(Some(reference)) => Slot::from(reference.address(store)?),
        })
    }

    /// From a slot of type `ty` that code of this store wrote.
    #[expect(clippy::cast_possible_truncation, reason = "the rest of the slot means nothing")]
    pub(crate) fn of_slot(store: &StoreInner, ty: ValueType, slot: Slot) -> Self {
        match ty {
            ValueType::I32 => Self::I32(slot as i32),
            ValueType::I64 => Self::I64(slot as i64),
            ValueType::F32 => Self::F32(slot as u32),
            ValueType::F64 => Self::F64(slot as u64),
            ValueType::V128 => Self::V128(slot),
            ValueType::FuncRef => Self::FuncRef(store.function_of(slot as u64)),
            ValueType::ExternRef => Self::ExternRef(ExternRef::of_handle(store, slot as u64)),
            ValueType::ExnRef => Self::ExnRef(ExnRef::of_address(store, slot as u64)),
        }
    }
}

/// A type of values that Rust has too.
pub trait WasmTy: Copy + 'static {
    /// Its Wasm type.
    const TYPE: ValueType;
    /// As a slot.
    #[doc(hidden)]
    fn into_slot(self) -> u128;
    /// From a slot, of which the first bytes count.
    #[doc(hidden)]
    fn from_slot(slot: u128) -> Self;
}

macro_rules! wasm_ty {
    ($($ty:ty, $wasm:ident, $into:expr, $from:expr;)*) => {$(
        #[expect(clippy::cast_possible_truncation, reason = "the rest of the slot means nothing")]
        impl WasmTy for $ty {
            const TYPE: ValueType = ValueType::$wasm;
            #[inline]
            fn into_slot(self) -> u128 {
                let into: fn($ty) -> u128 = $into;
                into(self)
            }
            #[inline]
            fn from_slot(slot: u128) -> Self {
                let from: fn(u128) -> $ty = $from;
                from(slot)
            }
        }
    )*};
}

wasm_ty! {
    i32, I32, |value| u128::from(value.cast_unsigned()), |slot| slot as i32;
    u32, I32, u128::from, |slot| slot as u32;
    i64, I64, |value| u128::from(value.cast_unsigned()), |slot| slot as i64;
    u64, I64, u128::from, |slot| slot as u64;
    f32, F32, |value| u128::from(value.to_bits()), |slot| f32::from_bits(slot as u32);
    f64, F64, |value| u128::from(value.to_bits()), |slot| f64::from_bits(slot as u64);
}

impl WasmTy for u128 {
    const TYPE: ValueType = ValueType::V128;
    fn into_slot(self) -> u128 {
        self
    }
    fn from_slot(slot: u128) -> Self {
        slot
    }
}

/// Values that can be parameters: up to sixteen.
pub trait WasmParams: Sized + 'static {
    /// Their types.
    const TYPES: &'static [ValueType];
    /// Writes them to the first slots.
    #[doc(hidden)]
    fn write(self, slots: &mut [u128]);
    /// Reads them from the first slots.
    #[doc(hidden)]
    fn read(slots: &[u128]) -> Self;
}

impl<T: WasmTy> WasmParams for T {
    const TYPES: &'static [ValueType] = &[T::TYPE];
    #[inline]
    fn write(self, slots: &mut [u128]) {
        slots[0] = self.into_slot();
    }
    #[inline]
    fn read(slots: &[u128]) -> Self {
        T::from_slot(slots[0])
    }
}

macro_rules! tuples {
    ($($name:ident $index:tt),*) => {
        impl<$($name: WasmTy),*> WasmParams for ($($name,)*) {
            const TYPES: &'static [ValueType] = &[$($name::TYPE),*];
            #[inline]
            fn write(self, slots: &mut [u128]) {
                $(slots[$index] = self.$index.into_slot();)*
            }
            #[inline]
            fn read(slots: &[u128]) -> Self {
                ($($name::from_slot(slots[$index]),)*)
            }
        }
    };
}

impl WasmParams for () {
    const TYPES: &'static [ValueType] = &[];
    fn write(self, _: &mut [u128]) {}
    fn read(_: &[u128]) -> Self {}
}

tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11, M 12, N 13, O 14, P 15);
