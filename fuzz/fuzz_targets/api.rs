//! What a cache and its clients say to each other in JSON. The first byte chooses the type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::Reference;
use preheat_image::api::{
    CollectReport, ContributionList, ErrorBody, FindMissing, MAX_STATEMENTS, Missing, NamespaceConfig, NamespaceKind, NamespaceList,
    NamespaceRow, ProfileReport, StatementList, Statistics,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fn read<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(bytes).ok()?;
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, read);
    Some(read)
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 11 {
        0 => {
            let Some(list) = read::<StatementList>(rest) else { return };
            let Ok(envelopes) = list.envelopes() else { return };
            assert!(envelopes.len() <= MAX_STATEMENTS);
            assert_eq!(StatementList::new(&envelopes).envelopes().as_ref(), Ok(&envelopes));
        }
        1 => {
            let Some(config) = read::<NamespaceConfig>(rest) else { return };
            if config.check("team").is_ok() {
                assert!(config.base.as_deref().is_none_or(|base| Reference::is_namespace(base) && base != "team"));
                assert!(config.kind == NamespaceKind::Preheat || (config.base.is_none() && config.builders.is_empty()));
            }
        }
        2 => drop(read::<FindMissing>(rest)),
        3 => drop(read::<Missing>(rest)),
        4 => drop(read::<NamespaceRow>(rest)),
        5 => drop(read::<NamespaceList>(rest)),
        6 => drop(read::<ContributionList>(rest)),
        7 => drop(read::<Statistics>(rest)),
        8 => drop(read::<CollectReport>(rest)),
        9 => drop(read::<ProfileReport>(rest)),
        _ => drop(read::<ErrorBody>(rest)),
    }
});
