//! Revocation lists. The first byte chooses: the rest is an envelope, or a list that is signed and added to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::Digest;
use preheat_image::keys::SecretKey;
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::signed::Document;
use std::sync::LazyLock;

static KEY: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_seed([1; 32]));

fn check(list: &SignedRevocations) {
    assert_eq!(SignedRevocations::parse(&list.to_bytes()).as_ref(), Ok(list), "what was written is the same list");
    let what = list.unverified();
    assert!(what.number > 0 && !what.build_ids.contains(""));
    assert_eq!(list.check_after(list), Ok(()));
    assert!(what.check_time(u64::MAX).is_err());
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    if mode % 2 == 0 {
        if let Ok(list) = SignedRevocations::parse(rest) {
            check(&list);
        }
        return;
    }
    let Ok(document) = serde_json::from_slice::<RevocationList>(rest) else { return };
    let Ok(old) = SignedRevocations::new(RevocationList { version: RevocationList::VERSION, ..document }) else { return };
    let Ok(old) = old.sign(&*KEY) else { return };
    if old.to_bytes().len() > RevocationList::MAX_SIZE {
        return;
    }
    check(&old);
    assert!(old.verify([&KEY.public()], 1).is_ok());
    let Some(number) = old.unverified().number.checked_add(1) else { return };
    let mut more = RevocationList { number, ..old.unverified().clone() };
    more.blobs.insert(Digest::of(rest));
    let more = SignedRevocations::new(more).expect("a longer list is a list");
    assert_eq!(more.check_after(&old), Ok(()));
    assert!(old.check_after(&more).is_err(), "never back");
    let mut less = RevocationList { number, ..old.unverified().clone() };
    if less.blobs.pop_first().is_some() || less.keys.pop_first().is_some() || less.sources.pop_first().is_some() {
        let less = SignedRevocations::new(less).expect("a shorter list is a list");
        assert!(less.check_after(&old).is_err(), "nothing is taken back");
    }
});
