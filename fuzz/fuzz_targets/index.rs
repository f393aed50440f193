//! What a store keeps about blobs: the first byte chooses records or rows of the index.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::Digest;
use preheat_image::record::Record;
use preheat_loader::store::ImageRow;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    if mode % 2 == 0 {
        let claimed = serde_json::from_slice::<Value>(rest).ok().and_then(|value| value.get("subject")?.as_str()?.parse().ok());
        let subject: Digest = claimed.unwrap_or(Digest::ZERO);
        let Ok(record) = Record::parse(rest, &subject) else { return };
        assert_eq!(record.subject, subject);
        assert_eq!(Record::parse(&record.to_bytes(), &subject).as_ref(), Ok(&record));
        assert!(Record::parse(rest, &Digest::of(b"something else")).is_err());
        let mut twice = Record::new(subject);
        for signed in record.statements.iter().chain(&record.statements) {
            twice.add(signed.clone());
        }
        assert!(twice.statements.len() <= record.statements.len());
        assert!(twice.statements.is_sorted_by_key(|signed| (signed.signer, signed.statement)));
    } else {
        let (key, value) = rest.split_at(rest.len().min(32));
        match ImageRow::decode(key, value) {
            Some(row) => {
                assert_eq!(row.digest.as_bytes().as_slice(), key);
                let bytes: Vec<u8> = row.blobs.iter().flat_map(|digest| *digest.as_bytes()).collect();
                assert_eq!(bytes, value);
            }
            None => assert!(key.len() != 32 || value.len() % 32 != 0),
        }
    }
});
