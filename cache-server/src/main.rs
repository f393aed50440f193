//! The `preheat-cache-server` command.

fn main() {}
