//! Roots. The first byte chooses: the rest is an envelope, or a root that is signed, since no mutation would hit upon a fitting signature.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::keys::SecretKey;
use preheat_image::root::{Role, Root, SignedRoot};
use preheat_image::signed::Document;
use std::sync::LazyLock;

static KEYS: LazyLock<[SecretKey; 2]> = LazyLock::new(|| [1, 2].map(|seed| SecretKey::from_seed([seed; 32])));

fn check(root: &SignedRoot) {
    assert_eq!(SignedRoot::parse(&root.to_bytes()).as_ref(), Ok(root), "what was written is the same root");
    let what = root.unverified();
    assert_eq!(what.check(), Ok(()));
    assert!(what.number > 0 && what.threshold > 0 && what.threshold as usize <= what.keys.len());
    for delegation in &what.delegations {
        let namespace = delegation.namespaces.first().expect("a delegation is for a namespace");
        let namespace = if namespace == "*" { "any" } else { namespace };
        assert!(!delegation.allows(delegation.role, namespace, delegation.expires));
        assert_eq!(delegation.allows(delegation.role, namespace, 0), delegation.expires > 0);
        assert!(what.keys.iter().all(|key| *key != delegation.key), "a key of the root stays offline");
    }
    for role in [Role::Builder, Role::Namer, Role::Revoker] {
        assert_eq!(what.keys_for(role, "any", u64::MAX).count(), 0);
    }
    if root.verify_first().is_ok() {
        assert!(root.signers().count() >= what.threshold as usize);
        assert!(root.verify_next(what).is_err(), "nothing follows itself");
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    if mode % 2 == 0 {
        if let Ok(root) = SignedRoot::parse(rest) {
            check(&root);
        }
        return;
    }
    let Ok(mut document) = serde_json::from_slice::<Root>(rest) else { return };
    // Keys that are there to sign.
    document.version = Root::VERSION;
    document.threshold = 1 + u32::from(mode % 4 == 3);
    document.keys = KEYS.iter().map(SecretKey::public).collect();
    let Ok(unsigned) = SignedRoot::new(document) else { return };
    let Ok(once) = unsigned.sign(&KEYS[0]) else { return };
    assert_eq!(once.verify_first().is_ok(), once.unverified().threshold == 1);
    let Ok(root) = once.clone().sign(&KEYS[1]) else { return };
    assert!(root.verify_first().is_ok());
    if root.to_bytes().len() > Root::MAX_SIZE {
        return;
    }
    check(&root);
    if let Some(number) = root.unverified().number.checked_add(1)
        && let Ok(next) = SignedRoot::new(Root { number, ..root.unverified().clone() })
        && let Ok(next) = next.sign(&KEYS[0])
    {
        assert_eq!(next.verify_next(root.unverified()).is_ok(), root.unverified().threshold == 1);
    }
});
