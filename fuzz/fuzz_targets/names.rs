//! Names snapshots. The first byte chooses: the rest is an envelope, or a snapshot that is signed and moved on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::Digest;
use preheat_image::keys::SecretKey;
use preheat_image::names::{MAX_MOVES, MAX_NAMES, MoveKind, Names, SignedNames, is_name};
use preheat_image::signed::Document;
use std::sync::LazyLock;

static KEY: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_seed([1; 32]));

fn check(names: &SignedNames) {
    assert_eq!(SignedNames::parse(&names.to_bytes()).as_ref(), Ok(names), "what was written is the same snapshot");
    let what = names.unverified();
    assert!(what.number > 0 && what.names.len() <= MAX_NAMES && what.moves.len() <= MAX_MOVES);
    for name in what.names.keys().chain(what.moves.iter().map(|one| &one.name)) {
        assert!(is_name(name) && !name.contains(['/', '\0']) && !name.contains(".."), "{name:?}");
    }
    assert_eq!(names.check_after(names), Ok(()));
    assert_eq!(what.check_time(0).is_ok(), what.expires > 0);
    assert!(what.check_time(u64::MAX).is_err());
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    if mode % 2 == 0 {
        if let Ok(names) = SignedNames::parse(rest) {
            check(&names);
        }
        return;
    }
    let Ok(document) = serde_json::from_slice::<Names>(rest) else { return };
    let Ok(old) = SignedNames::new(Names { version: Names::VERSION, ..document }) else { return };
    let Ok(old) = old.sign(&*KEY) else { return };
    if old.to_bytes().len() > Names::MAX_SIZE || old.unverified().number == u64::MAX {
        return;
    }
    check(&old);
    assert!(old.verify([&KEY.public()], 1).is_ok());
    let mut moved = Names::after(&old, 1, 2);
    let name = old.unverified().names.keys().next().cloned();
    let before = name.as_ref().and_then(|name| moved.names.get(name)).copied();
    if let Some(name) = &name {
        let to = Digest::of(name.as_bytes());
        moved.set(MoveKind::Push, name, Some(to)).expect("a name that is there can be moved");
        if before != Some(to) {
            assert_eq!(moved.roll_back(name).ok(), before, "and back");
        }
    }
    let new = SignedNames::new(moved).expect("a move makes a good snapshot").sign(&*KEY).expect("the key is there");
    assert_eq!(new.check_after(&old), Ok(()));
    assert!(old.check_after(&new).is_err(), "never back");
});
