//! Numbers and bytes of a profile, written and read. A number is a LEB128 of as few bytes as it takes, so that it has one encoding.

use crate::FormatError;

/// How many bytes a number takes.
pub(super) fn size_of_varint(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a number.
pub(super) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

/// Appends bytes, and how many there are in front.
pub(super) fn put_bytes(bytes: &mut Vec<u8>, what: &[u8]) {
    put(bytes, what.len() as u64);
    bytes.extend_from_slice(what);
}

/// What is left to be read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    format: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(format: &'static str, bytes: &'a [u8]) -> Self {
        Self { format, bytes, at: 0 }
    }

    /// That something read is wrong.
    pub(super) fn damaged(&self, what: impl Into<String>) -> FormatError {
        FormatError::Damaged { format: self.format, what: what.into() }
    }

    fn truncated(&self, more: u64) -> FormatError {
        FormatError::Truncated { format: self.format, need: (self.at as u64).saturating_add(more), have: self.bytes.len() as u64 }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let end = self.at.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.truncated(len as u64))?;
        self.at += len;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A number.
    pub(super) fn varint(&mut self) -> Result<u64, FormatError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 {
                return Err(self.damaged("a number of more than 64 bits"));
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(self.damaged("a number that is longer than it has to be"));
                }
                return Ok(number);
            }
        }
        Err(self.damaged("a number of more than 64 bits"))
    }

    /// A number of 32 bits.
    pub(super) fn varint32(&mut self) -> Result<u32, FormatError> {
        u32::try_from(self.varint()?).map_err(|_| self.damaged("a number of more than 32 bits"))
    }

    /// How many follow, each of which takes at least `each` bytes: not more than `most`, and not more than there can be.
    pub(super) fn count(&mut self, most: usize, each: usize, what: &str) -> Result<usize, FormatError> {
        let count = self.varint()?;
        if count > most as u64 {
            return Err(self.damaged(format!("{count} {what}, at most {most} allowed")));
        }
        let need = count.saturating_mul(each as u64);
        if need > self.left() as u64 {
            return Err(self.truncated(need));
        }
        usize::try_from(count).map_err(|_| self.truncated(need))
    }

    /// Text of at most `most` bytes.
    pub(super) fn text(&mut self, most: usize, what: &str) -> Result<String, FormatError> {
        let len = self.count(most, 1, what)?;
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| self.damaged(format!("{what} are not text")))?;
        Ok(text.to_owned())
    }

    /// That nothing is left.
    pub(super) fn end(&self) -> Result<(), FormatError> {
        if self.left() == 0 { Ok(()) } else { Err(self.damaged(format!("{} bytes behind its end", self.left()))) }
    }
}

/// The next of numbers that ascend: the first as it is, then what lies between one and the next.
pub(super) struct Ascending(u64);

impl Ascending {
    pub(super) fn new() -> Self {
        Self(0)
    }

    /// The distance to `number`, which is not below any before.
    pub(super) fn distance(&mut self, number: u32) -> u64 {
        let distance = u64::from(number).saturating_sub(self.0);
        self.0 = u64::from(number) + 1;
        distance
    }

    /// The number at this distance; none if it has more than 32 bits.
    pub(super) fn number(&mut self, distance: u64) -> Option<u32> {
        let number = u32::try_from(self.0.checked_add(distance)?).ok()?;
        self.0 = u64::from(number) + 1;
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_encoding() {
        for number in [0, 1, 127, 128, 300, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            assert_eq!(bytes.len(), size_of_varint(number));
            let mut reader = Reader::new("test", &bytes);
            assert_eq!(reader.varint(), Ok(number));
            assert_eq!(reader.end(), Ok(()));
            assert!(Reader::new("test", &bytes[..bytes.len() - 1]).varint().is_err(), "cut");
            if let Some(last) = bytes.last_mut() {
                *last |= 0x80;
            }
            bytes.push(0);
            assert!(Reader::new("test", &bytes).varint().is_err(), "{number} with a zero more");
        }
        for bytes in [[0xff; 10].as_slice(), &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], &[0x80; 40]] {
            assert!(Reader::new("test", bytes).varint().is_err());
        }
    }

    #[test]
    fn numbers_that_ascend_lead_back() {
        let numbers = [0, 1, 5, u32::MAX - 1, u32::MAX];
        let (mut there, mut back) = (Ascending::new(), Ascending::new());
        for number in numbers {
            assert_eq!(back.number(there.distance(number)), Some(number));
        }
        assert_eq!(back.number(0), None);
        assert_eq!(Ascending::new().number(u64::MAX), None);
    }
}
