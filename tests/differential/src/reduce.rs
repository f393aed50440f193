//! Smaller modules with the same kind of difference: functions lose their bodies, as long as a difference is left.

use crate::check::Checker;
use crate::generate::Case;
use crate::rewrite;
use anyhow::Result;

/// A body that is `unreachable`.
const UNREACHABLE: [u8; 3] = [0, 0, 0x0b];

impl Checker {
    /// A smaller case that still differs.
    ///
    /// # Errors
    /// When the module is not valid.
    pub fn reduce(&self, case: &Case) -> Result<Case> {
        reduce(case, |smaller| self.check(smaller, false).is_ok_and(|verdict| verdict.difference.is_some()))
    }
}

/// A case for which `differs` holds as it does for `case`, with as few bodies as one pass over them finds.
fn reduce(case: &Case, differs: impl Fn(&Case) -> bool) -> Result<Case> {
    let mut best = case.clone();
    let mut bodies = rewrite::bodies(&case.wasm)?;
    for index in 0..bodies.len() {
        if bodies[index] == UNREACHABLE {
            continue;
        }
        let body = std::mem::replace(&mut bodies[index], UNREACHABLE.to_vec());
        let smaller = Case { wasm: rewrite::with_bodies(&best.wasm, &bodies)?, ..best.clone() };
        if differs(&smaller) {
            best = smaller;
        } else {
            bodies[index] = body;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_go_that_are_not_needed() {
        let wat = |first: &str, last: &str| {
            let text = format!(
                r#"(module
                    (func (export "a") (result i32) {first})
                    (func (export "b") (result i32) (local i64) (i32.const 2))
                    (func (export "c") (result i32) {last}))"#
            );
            wat::parse_str(text).unwrap()
        };
        let case = Case::new(&wat("(i32.add (i32.const 1) (i32.const 2))", "(i32.const 3)"), 0).unwrap();
        let has_local = |case: &Case| rewrite::bodies(&case.wasm).unwrap()[1].len() > 4;
        let reduced = reduce(&case, has_local).unwrap();
        assert_eq!(reduced.wasm, wat("unreachable", "unreachable"));
        assert_eq!(reduce(&reduced, |_| false).unwrap().wasm, reduced.wasm);
    }
}
