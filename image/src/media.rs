//! Media types: what a blob is.

/// The manifest of an image.
pub const MANIFEST: &str = "application/vnd.preheat.manifest.v1+json";
/// A code object of the wasmtime engine: the artefact file of that version of wasmtime, an ELF file.
pub const CODE_WASMTIME: &str = "application/vnd.preheat.code.wasmtime.v1+elf";
/// A code object in Preheat's own layout, see [`crate::code`].
pub const CODE: &str = "application/vnd.preheat.code.v1+elf";
/// A resume object: code in the layout of [`CODE`] through which a frozen program wakes.
pub const RESUME: &str = "application/vnd.preheat.resume.v1+elf";
/// A heap snapshot, see [`crate::heap`].
pub const HEAP: &str = "application/vnd.preheat.heap.v2";
/// A profile, see [`crate::profile::Profile`].
pub const PROFILE: &str = "application/vnd.preheat.profile.v1";
/// An evaluated profile, which compilers read, see [`crate::profile::Summary`].
pub const PROFILE_SUMMARY: &str = "application/vnd.preheat.profile-summary.v1";
/// What a program learned from outside before it was frozen.
pub const FREEZE_RECORD: &str = "application/vnd.preheat.freeze-record.v1+json";
/// Evidence for which an image took the place of another, see [`crate::evidence`].
pub const EVIDENCE: &str = "application/vnd.preheat.evidence.v1+json";
/// A chunk list, see [`crate::chunks`].
pub const CHUNKS: &str = "application/vnd.preheat.chunks.v1";
/// A signed statement in its envelope.
pub const STATEMENT: &str = "application/vnd.preheat.statement.v1.dsse+json";
/// The payload inside a statement's envelope.
pub const STATEMENT_PAYLOAD: &str = "application/vnd.preheat.statement.v1+json";
/// The payload of a signed [root](crate::root).
pub const ROOT_PAYLOAD: &str = "application/vnd.preheat.root.v1+json";
/// The payload of a signed [snapshot of names](crate::names).
pub const NAMES_PAYLOAD: &str = "application/vnd.preheat.names.v1+json";
/// The payload of a signed [revocation list](crate::revocation).
pub const REVOCATIONS_PAYLOAD: &str = "application/vnd.preheat.revocations.v1+json";
/// A signed document in its envelope, whatever its payload: what the service answers for roots, names and revocations.
pub const ENVELOPE: &str = "application/vnd.preheat.envelope.v1.dsse+json";
/// The Wasm bytes from which an image was built.
pub const WASM: &str = "application/wasm";

/// Whether `text` is a media type: `type/subtype` of the characters that RFC 6838 section 4.2 allows.
#[must_use]
pub fn is_valid(text: &str) -> bool {
    let part = |part: &str| {
        (1..=127).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
            && part.as_bytes()[0].is_ascii_alphanumeric()
    };
    text.split_once('/').is_some_and(|(kind, sub)| part(kind) && part(sub))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_valid_and_junk_is_not() {
        for ours in [
            MANIFEST,
            CODE_WASMTIME,
            CODE,
            RESUME,
            HEAP,
            PROFILE,
            PROFILE_SUMMARY,
            FREEZE_RECORD,
            EVIDENCE,
            CHUNKS,
            STATEMENT,
            STATEMENT_PAYLOAD,
            ROOT_PAYLOAD,
            NAMES_PAYLOAD,
            REVOCATIONS_PAYLOAD,
            ENVELOPE,
            WASM,
            "application/vnd.openjdk.cds",
        ] {
            assert!(is_valid(ours), "{ours}");
        }
        for junk in ["", "/", "a/", "/a", "a", "a/b/c", "a b/c", "a/\u{e9}", "../etc/passwd"] {
            assert!(!is_valid(junk), "{junk}");
        }
    }
}
