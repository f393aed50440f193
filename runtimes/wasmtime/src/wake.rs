//! What a call may ask of a frozen component.

use preheat_call::{Request, RunError};
use preheat_image::manifest::Function;

/// A frozen component was initialised with its image's arguments and variables, and may have made something of them: a call can't give others.
/// The words are those of the native engine.
pub(crate) fn check(function: &Function, request: &Request) -> Result<(), RunError> {
    let Some(frozen) = &function.frozen else { return Ok(()) };
    let program = request.program.as_ref().is_some_and(|program| *program != function.name);
    if program || !request.args.is_empty() {
        let whole = |program, args: &[String]| [std::slice::from_ref(program), &function.args, args].concat();
        let (was, given) = (whole(&function.name, &[]), whole(request.program.as_ref().unwrap_or(&function.name), &request.args));
        return Err(RunError::Usage(format!(
            "the program was frozen with the arguments {was:?}, which it has read already, so it can't be run with {given:?}; build an image with \
             those, or pass what differs in its calls"
        )));
    }
    for (name, value) in &request.env {
        let known = function.env.get(name);
        if frozen.late_env.contains(name) || known == Some(value) {
            continue;
        }
        let how = if known.is_some() { "with another value of" } else { "without" };
        return Err(RunError::Usage(format!(
            "the program was frozen {how} the environment variable `{name}`; build the image with --late-env {name} to give it at each wake-up"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use preheat_image::Digest;
    use preheat_image::frozen::{FreezePoint, Frozen};
    use preheat_image::manifest::FunctionKind;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn a_frozen_component_is_called_with_what_it_was_initialised_with() {
        let frozen = Frozen {
            point: FreezePoint::Init,
            layers: Vec::new(),
            component: Some(Digest::of(b"component")),
            late_env: BTreeSet::from(["TOKEN".to_owned()]),
            record: Digest::of(b"record"),
            risks: Vec::new(),
        };
        let mut function = Function {
            kind: FunctionKind::Component,
            name: "app".into(),
            args: vec!["x".into()],
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            frozen: Some(Box::new(frozen)),
        };
        let refused = |request: Request| check(&function, &request).unwrap_err().to_string();
        for request in [Request::new(), Request::new().program("app").env("A", "1").env("TOKEN", "t")] {
            check(&function, &request).unwrap();
        }
        assert!(refused(Request::new().args(["y"])).contains(r#"can't be run with ["app", "x", "y"]"#));
        assert!(refused(Request::new().program("other")).contains("can't be run with"));
        assert!(refused(Request::new().env("A", "2")).contains("with another value of the environment variable `A`"));
        assert!(refused(Request::new().env("B", "2")).contains("--late-env B"));
        function.frozen = None;
        check(&function, &Request::new().args(["y"]).env("B", "2")).unwrap();
    }
}
