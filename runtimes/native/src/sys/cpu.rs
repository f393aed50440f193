//! What the CPU can do, as the C library found out when the process began.
//!
//! In a virtual machine each question to the CPU (`cpuid`) goes to the hypervisor: asking about all features anew takes longer than opening an
//! image. glibc has asked already, and tells since version 2.33 (`sys/platform/x86.h`).

use preheat_image::CpuLevel;

/// `struct cpuid_feature` of glibc: what the CPU has, and of that what may be used, by register (eax, ebx, ecx, edx).
#[repr(C)]
struct Features {
    present: [u32; 4],
    active: [u32; 4],
}

unsafe extern "C" {
    /// What glibc knows about a leaf; never null, and there for ever. Leaves that it does not know have nothing.
    safe fn __x86_get_cpuid_feature_leaf(leaf: u32) -> *const Features;
}

const EBX: usize = 1;
const ECX: usize = 2;
/// glibc's numbers of the leaves 1, 7 and 0x8000_0001.
const LEAF_1: u32 = 0;
const LEAF_7: u32 = 1;
const LEAF_EXTENDED: u32 = 2;

/// Whether all of `bits` may be used.
fn has(leaf: u32, register: usize, bits: &[u32]) -> bool {
    let found = __x86_get_cpuid_feature_leaf(leaf);
    // SAFETY: glibc returns a pointer to a structure of this form, which it filled before `main` and does not change.
    let Some(features) = (unsafe { found.as_ref() }) else { return false };
    let wanted = bits.iter().fold(0, |wanted, bit| wanted | 1 << bit);
    features.active[register] & wanted == wanted
}

/// The highest level that the CPU has.
pub(crate) fn level() -> CpuLevel {
    // sse3, ssse3, cmpxchg16b, sse4.1, sse4.2, popcnt
    let v2 = has(LEAF_1, ECX, &[0, 9, 13, 19, 20, 23]);
    // fma, movbe, avx, f16c; bmi1, avx2, bmi2; lzcnt
    let v3 = v2 && has(LEAF_1, ECX, &[12, 22, 28, 29]) && has(LEAF_7, EBX, &[3, 5, 8]) && has(LEAF_EXTENDED, ECX, &[5]);
    // avx512f, dq, cd, bw, vl
    let v4 = v3 && has(LEAF_7, EBX, &[16, 17, 28, 30, 31]);
    match (v2, v3, v4) {
        (_, _, true) => CpuLevel::V4,
        (_, true, _) => CpuLevel::V3,
        (true, _, _) => CpuLevel::V2,
        _ => CpuLevel::V1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_and_the_cpu_say_the_same() {
        assert_eq!(Some(level()), CpuLevel::of_host());
    }

    #[test]
    fn what_glibc_does_not_know_is_not_there() {
        assert!(!has(1000, ECX, &[0]));
    }
}
