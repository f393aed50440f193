//! Host states and records from bytes that nobody vouches for.

mod common;

use common::*;
use preheat_wasi::{Context, FormatError, Grants, HostState, Preopen, Record, Recording, Streams, SystemHost, Wake};
use proptest::prelude::*;
use std::sync::Arc;

/// The bytes of a state in which there is some of everything.
fn sample(tree: &Tree) -> Vec<u8> {
    let mut guest = Bare::new(Grants::new());
    let grants = tree.grants().late_env("KEY");
    guest.context = Context::with_host(Arc::new(grants), Box::new(Recording::new([1; 32], 1000)));
    guest.open(3, "sub", DIRECTORY, READ).unwrap();
    let file = guest.open(3, "file", 0, READ | WRITE).unwrap();
    guest.read(file, 3).unwrap();
    guest.open(5, "env", 0, READ).unwrap();
    guest.call("fd_renumber", &[0, file + 2]);
    guest.call("fd_close", &[1]);
    guest.write(2, b"\x00\xff text").unwrap();
    guest.context.host_state().unwrap().encode()
}

fn directories(tree: &Tree) -> Grants {
    Grants::new()
        .preopen(Preopen::open(&tree.path("rw"), "/rw", true).unwrap())
        .preopen(Preopen::open(&tree.path("ro"), "/ro", false).unwrap())
}

/// The form in which it is written, and that nothing else is read.
#[test]
fn the_format_is_as_specified() {
    let tree = Tree::new();
    let mut guest = Bare::new(Grants::new());
    let preopen = Preopen::open(&tree.path("ro"), "/ro", false).unwrap();
    let grants = Grants::new().args(["p", "\n"]).env("A", "1").preopen(preopen).late_env("KEY");
    guest.context = Context::with_host(Arc::new(grants), Box::new(Recording::new([1; 32], 1000)));
    let file = guest.open(3, "file", 0, READ).unwrap();
    guest.open(3, "sub", DIRECTORY, READ).unwrap();
    guest.read(file, 3).unwrap();
    guest.call("fd_close", &[0]);
    guest.write(1, b"hi").unwrap();
    let digest = "sha256:853ff93762a06ddbf722c4ebe9ddd66d8f63ddaea97f521c3ecc20da7c976020";
    let access = r#""access":{"read":true,"write":false,"follow":true}"#;
    let expected = [
        r#"{"version":1,"arguments":["p","\n"],"environment":[["A","1"]],"environmentRead":false,"late":["KEY"],"#,
        r#""preopens":[{"name":"/ro","wake":false},{"name":"/preheat","wake":true}],"descriptors":["#,
        r#"{"kind":"closed"},{"kind":"stdout"},{"kind":"stderr"},{"kind":"preopen","preopen":0},{"kind":"preopen","preopen":1},"#,
        &format!(
            r#"{{"kind":"file","preopen":0,"path":"file",{access},"append":false,"nonblock":false,"position":3,"digest":"{digest}"}},"#
        ),
        &format!(r#"{{"kind":"directory","preopen":0,"path":"sub",{access}}}],"#),
        r#""monotonic":1,"realtime":1000,"nextNumber":16,"output":[{"stream":"stdout","bytes":"aGk="}]}"#,
    ]
    .concat();
    let state = guest.context.host_state().unwrap();
    assert_eq!(String::from_utf8(state.encode()).unwrap(), expected);
    assert_eq!(HostState::parse(expected.as_bytes()).unwrap(), state);
    let damaged = |text: String| {
        let error = HostState::parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error, FormatError::Damaged { .. }), "{error}: {text}");
        error.to_string()
    };
    for (from, to) in [
        (r#""late""#, r#""more":1,"late""#),
        (r#""kind":"closed""#, r#""kind":"closed","fd":1"#),
        (r#""kind":"closed""#, r#""kind":"socket""#),
        (r#""preopen":0,"path":"sub""#, r#""preopen":2,"path":"sub""#),
        (r#""kind":"preopen","preopen":1"#, r#""kind":"preopen","preopen":18446744073709551615"#),
        (r#""wake":false"#, r#""wake":true"#),
        (r#""wake":true"#, r#""wake":false"#),
        (r#""monotonic":1"#, r#""monotonic":-1"#),
        (r#""monotonic":1,"#, ""),
        (r#""monotonic":1"#, r#""monotonic":1,"monotonic":1"#),
        ("aGk=", "aGk"),
        ("aGk=", "!"),
        ("sha256:", "sha512:"),
        ("stdout\",\"bytes", "stdin\",\"bytes"),
        (r#""follow":true"#, r#""follow":true,"execute":true"#),
    ] {
        assert!(expected.contains(from), "{from}");
        damaged(expected.replacen(from, to, 1));
    }
    damaged(format!("{expected} x"));
    damaged(String::new());
    let long = "x".repeat(4097);
    assert!(damaged(expected.replace(r#""path":"sub""#, &format!(r#""path":"{long}""#))).contains("descriptor 6"));
    let many = r#"{"kind":"closed"},"#.repeat(5000);
    assert!(damaged(expected.replace(r#"{"kind":"closed"},"#, &many)).contains("descriptors"));
    assert!(damaged(" ".repeat(HostState::MAX_SIZE + 1)).contains("16777216"));
    // Another version says so, whatever else it has.
    for text in [expected.replace(r#""version":1"#, r#""version":2"#), r#"{"version":2,"new":[]}"#.to_owned()] {
        let error = HostState::parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error, FormatError::Version { found: 2, supported: 1, .. }), "{error}");
        assert!(error.to_string().contains("version 2") && error.to_string().contains("version 1"), "{error}");
    }
}

#[test]
fn records_are_read_and_refused() {
    let text = String::from_utf8(Record::default().encode()).unwrap();
    assert_eq!(Record::parse(text.as_bytes()).unwrap(), Record::default());
    for (from, to) in [("arguments", "argument"), (r#""files":[]"#, r#""files":[{}]"#), (r#""version":1"#, r#""version":true"#)] {
        assert!(matches!(Record::parse(text.replace(from, to).as_bytes()), Err(FormatError::Damaged { .. })), "{to}");
    }
    let other = text.replace(r#""version":1"#, r#""version":7"#);
    assert!(matches!(Record::parse(other.as_bytes()), Err(FormatError::Version { found: 7, .. })));
}

/// Whatever is accepted can be asked about, written again, and woken or refused; what is woken takes calls.
fn check(bytes: &[u8], tree: &Tree) {
    let Ok(state) = HostState::parse(bytes) else { return };
    let _ = (state.files().count(), state.preopens().count(), format!("{state:?}"));
    assert_eq!(HostState::parse(&state.encode()).unwrap(), state);
    let Ok(wake) = Wake::new(Arc::new(state), directories(tree)) else { return };
    let mut guest = Bare::new(Grants::new());
    let Ok(context) = Context::wake(&wake, Box::new(SystemHost), Streams::default()) else { return };
    guest.context = context;
    for fd in 0..12 {
        let _ = guest.call("fd_fdstat_get", &[fd, OUT]);
        let _ = guest.read(fd, 10);
        let _ = guest.open(fd, "file", 0, READ);
    }
}

/// A byte of a JSON text, or any.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![3 => prop::sample::select(b"0123456789{}[],:\"\\truefalsnul.-+e /".to_vec()), 1 => any::<u8>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_accepted_or_refused(bytes in prop::collection::vec(byte(), 0..400)) {
        let tree = Tree::new();
        check(&bytes, &tree);
        let _ = Record::parse(&bytes);
    }

    /// A state of which some bytes were replaced, removed, or repeated.
    #[test]
    fn damaged_states_are_accepted_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), byte(), 0..4_u8), 0..6),
    ) {
        let tree = Tree::new();
        let outside = tree.list();
        let mut bytes = sample(&tree);
        for (index, byte, how) in changes {
            let at = index.index(bytes.len());
            match how {
                0 | 1 => bytes[at] = byte,
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, bytes[at]),
            }
        }
        check(&bytes, &tree);
        prop_assert_eq!(tree.list(), outside);
    }

    /// A state whose numbers and names are others.
    #[test]
    fn other_values_are_accepted_or_refused(
        preopen in 0..4_usize,
        path in prop::sample::select(vec!["file", "sub", "", ".", "env", "random", "..", "/", "out", "outdir", "link", "dangling", "loop", "\0"]),
        kind in prop::sample::select(vec!["file", "directory"]),
        position in any::<u64>(),
        monotonic in any::<u64>(),
        [read, write, follow, append] in any::<[bool; 4]>(),
    ) {
        let tree = Tree::new();
        let path = serde_json_string(path);
        let access = format!(r#"{{"read":{read},"write":{write},"follow":{follow}}}"#);
        let rest = if kind == "file" {
            format!(r#","append":{append},"nonblock":false,"position":{position},"digest":null"#)
        } else {
            String::new()
        };
        let text = format!(
            r#"{{"version":1,"arguments":[],"environment":[],"environmentRead":true,"late":[],"preopens":[{{"name":"/ro","wake":false}},
            {{"name":"/rw","wake":false}},{{"name":"/preheat","wake":true}}],"descriptors":[{{"kind":"{kind}","preopen":{preopen},
            "path":{path},"access":{access}{rest}}}],"monotonic":{monotonic},"realtime":0,"nextNumber":0,"output":[]}}"#
        );
        prop_assert_eq!(HostState::parse(text.as_bytes()).is_ok(), preopen < 3, "{}", text);
        check(text.as_bytes(), &tree);
    }
}

fn serde_json_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\0', "\\u0000"))
}
