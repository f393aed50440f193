//! Statements. The first byte chooses: the rest is an envelope, or a payload that is put into one, or a payload that is given the key of
//! its fields and signed, since no mutation would hit upon a fitting digest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::keys::SecretKey;
use preheat_image::statement::{Envelope, StatementError};
use preheat_image::{Statement, key::field, media};
use std::sync::LazyLock;

static KEY: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_seed([1; 32]));
static OTHER: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_seed([2; 32]));

fn check(envelope: &Envelope) {
    let again = Envelope::parse(&envelope.to_bytes()).expect("what was written is an envelope");
    assert_eq!(&again, envelope);
    let statement = envelope.unverified();
    assert_eq!(statement.key, statement.fields.key());
    assert_eq!(statement.fields.get(field::KIND), Some(statement.kind.name()));
    let known = envelope.signer() == OTHER.public().id();
    match envelope.verify([&OTHER.public()]) {
        Err(StatementError::UnknownSigner(signer)) => assert!(!known && signer == envelope.signer()),
        Err(StatementError::WrongSignature(_)) => assert!(known),
        other => panic!("a key that never signed: {other:?}"),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * position)) as usize & 63];
            text.push(if position <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 3 {
        0 => {
            if let Ok(envelope) = Envelope::parse(rest) {
                check(&envelope);
            }
        }
        1 => {
            let signature = serde_json::json!({ "keyid": KEY.public().id(), "sig": "" });
            let payload = base64(rest);
            let file = serde_json::json!({ "payloadType": media::STATEMENT_PAYLOAD, "payload": payload, "signatures": [signature] });
            if let Ok(envelope) = Envelope::parse(file.to_string().as_bytes()) {
                check(&envelope);
                assert_eq!(envelope.verify([&KEY.public()]), Err(StatementError::WrongSignature(KEY.public().id())));
            }
        }
        _ => {
            let Ok(read) = serde_json::from_slice::<Statement>(rest) else { return };
            let fields = read.fields.with(field::KIND, read.kind.name());
            let envelope = Statement::new(read.kind, &read.namespace, fields, read.outputs).sign(&KEY);
            let bytes = envelope.to_bytes();
            let Ok(parsed) = Envelope::parse(&bytes) else { return };
            check(&parsed);
            assert_eq!(parsed.verify([&KEY.public()]), Ok(envelope.unverified()));
            // One flipped bit: refused, or it says the same. The first byte also says which.
            let mut bad = bytes.clone();
            let at = usize::from(*mode) * bytes.len() / 256;
            bad[at] ^= 1 << (mode % 8);
            if let Ok(changed) = Envelope::parse(&bad)
                && let Ok(statement) = changed.verify([&KEY.public()])
            {
                assert_eq!(statement, envelope.unverified());
            }
        }
    }
});
