//! Links the runner at a fixed address, as the command is; see the build script of the root package.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["-no-pie", "-static"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
