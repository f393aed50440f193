//! Function types: Wasm's, each once, and the CLIF signatures of what is called.

use cranelift_codegen::ir::types::{F32, F64, I8X16, I32, I64};
use cranelift_codegen::ir::{AbiParam, ArgumentPurpose, Signature, Type};
use cranelift_codegen::isa::CallConv;
use preheat_image::abi::{Libcall, LibcallResult, Scalar, ValueType};

/// A function type, as the ABI numbers value types.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FunctionType {
    pub(crate) params: Vec<ValueType>,
    pub(crate) results: Vec<ValueType>,
}

/// The type of a value in CLIF. Vectors have other types while they are operands, but cross every border as this one.
pub(crate) const fn clif_type(ty: ValueType) -> Type {
    match ty {
        ValueType::I32 => I32,
        ValueType::I64 | ValueType::FuncRef | ValueType::ExternRef | ValueType::ExnRef => I64,
        ValueType::F32 => F32,
        ValueType::F64 => F64,
        ValueType::V128 => I8X16,
    }
}

/// The value type of a Wasm type; `None` for one that validation of our features never lets through.
pub(crate) fn value_type(ty: wasmparser::ValType) -> Option<ValueType> {
    Some(match ty {
        wasmparser::ValType::I32 => ValueType::I32,
        wasmparser::ValType::I64 => ValueType::I64,
        wasmparser::ValType::F32 => ValueType::F32,
        wasmparser::ValType::F64 => ValueType::F64,
        wasmparser::ValType::V128 => ValueType::V128,
        wasmparser::ValType::Ref(ty) => reference_type(ty)?,
    })
}

/// The value type of a reference type.
pub(crate) fn reference_type(ty: wasmparser::RefType) -> Option<ValueType> {
    if ty == wasmparser::RefType::FUNCREF {
        Some(ValueType::FuncRef)
    } else if ty == wasmparser::RefType::EXTERNREF {
        Some(ValueType::ExternRef)
    } else if ty == wasmparser::RefType::EXNREF {
        Some(ValueType::ExnRef)
    } else {
        None
    }
}

/// The value type of an operand, which may be of a subtype that no value type of a module is: `ref.func` gives a reference to a function of one type that is
/// never null. `None` for one of any type, in dead code.
pub(crate) fn operand_type(ty: wasmparser::ValType) -> Option<ValueType> {
    use wasmparser::{AbstractHeapType, HeapType, ValType};
    let ValType::Ref(ty) = ty else { return value_type(ty) };
    Some(match ty.heap_type() {
        HeapType::Concrete(_) | HeapType::Exact(_) => ValueType::FuncRef,
        HeapType::Abstract { ty, .. } => match ty {
            AbstractHeapType::Func | AbstractHeapType::NoFunc => ValueType::FuncRef,
            AbstractHeapType::Extern | AbstractHeapType::NoExtern => ValueType::ExternRef,
            AbstractHeapType::Exn | AbstractHeapType::NoExn => ValueType::ExnRef,
            _ => return None,
        },
    })
}

impl FunctionType {
    /// The signature of a guest function of this type: the context, then the parameters.
    pub(crate) fn guest(&self) -> Signature {
        let mut signature = Signature::new(CallConv::Tail);
        signature.params.push(AbiParam::special(I64, ArgumentPurpose::VMContext));
        signature.params.extend(self.params.iter().map(|ty| AbiParam::new(clif_type(*ty))));
        signature.returns.extend(self.results.iter().map(|ty| AbiParam::new(clif_type(*ty))));
        signature
    }
}

/// A System V signature of integers and addresses.
pub(crate) fn system_v(params: &[Type], returns: &[Type]) -> Signature {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.extend(params.iter().map(|ty| AbiParam::new(*ty)));
    signature.returns.extend(returns.iter().map(|ty| AbiParam::new(*ty)));
    signature
}

fn scalars(libcall: Libcall) -> impl Iterator<Item = Type> {
    libcall.params().iter().map(|scalar| match scalar {
        Scalar::I32 => I32,
        Scalar::I64 => I64,
    })
}

/// The signature of the runtime's function for a library call.
pub(crate) fn libcall(libcall: Libcall) -> Signature {
    let params: Vec<Type> = [I64].into_iter().chain(scalars(libcall)).collect();
    system_v(&params, &[I64])
}

/// The signature of the stub of a library call, which handles the status itself.
pub(crate) fn libcall_stub(libcall: Libcall) -> Signature {
    let mut signature = Signature::new(CallConv::Tail);
    signature.params.push(AbiParam::special(I64, ArgumentPurpose::VMContext));
    signature.params.extend(scalars(libcall).map(AbiParam::new));
    if libcall.result() != LibcallResult::Status {
        signature.returns.push(AbiParam::new(I64));
    }
    signature
}
