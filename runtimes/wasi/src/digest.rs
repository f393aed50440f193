//! The digest of a file's contents.

use crate::error::Failure;
use crate::interrupt::Interrupt;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// How many bytes are read at a time. Between two reads an interrupt ends the work.
const PIECE: usize = 64 * 1024;

/// The SHA-256 of a file's contents. As text: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileDigest([u8; 32]);

impl FileDigest {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Takes 32 bytes that are a SHA-256 already.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?.as_bytes();
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for FileDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not a digest such as sha256:…"))
    }
}

/// Hashes an open file from its beginning to its end, and counts its bytes. The file's position does not matter and stays.
pub(crate) fn of_file(file: &File, interrupt: &Interrupt) -> Result<io::Result<(FileDigest, u64)>, Failure> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    let mut size = 0;
    loop {
        interrupt.check_now()?;
        match file.read_at(&mut buffer, size) {
            Ok(0) => return Ok(Ok((FileDigest(hasher.finalize().into()), size))),
            Ok(len) => {
                hasher.update(&buffer[..len]);
                size = size.saturating_add(u64::try_from(len)?);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Stop;
    use std::io::Write as _;
    use std::time::Instant;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn texts_of_digests() {
        let digest = FileDigest::of(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(FileDigest::parse(EMPTY), Some(digest));
        let upper = EMPTY.to_uppercase();
        for text in ["", "sha256:", &EMPTY[7..], &EMPTY[..70], &format!("{EMPTY}0"), &upper, &EMPTY.replace('9', "g")] {
            assert_eq!(FileDigest::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_file_is_hashed_whole_wherever_its_position_is() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        file.write_all(&bytes).unwrap();
        assert_eq!(of_file(&file, &Interrupt::never()).unwrap().unwrap(), (FileDigest::of(&bytes), 200_000));
        let over = Interrupt::never().at(Instant::now());
        assert!(matches!(of_file(&file, &over), Err(Failure::Stop(Stop::Interrupted))));
    }
}
