//! Links the command at a fixed address.
//!
//! A quarter of what a fresh process costs beyond `exec` is relocation: a position-independent binary with a compiler in it has 780 kB of
//! pointers, on 190 pages, each of which the kernel must copy before one byte of the function has run. A binary at a fixed address
//! has none. What it gives up is the random place of its own text and data; stack, heap, mappings and guest code stay where chance puts
//! them. `docs/security.md` weighs this. Only the command is linked so: the library is position independent like any other.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["-no-pie", "-static"] {
        println!("cargo::rustc-link-arg-bin=preheat={argument}");
    }
}
