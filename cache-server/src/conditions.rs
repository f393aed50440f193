//! Parts of requests for blobs: ranges, conditions, codings (RFC 9110, sections 8, 12, 13 and 14).

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, IF_NONE_MATCH, IF_RANGE, RANGE};
use std::ops::Range;

/// What part of a blob is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// These bytes; at least one, and all of them are there.
    Bytes(Range<u64>),
    /// None that are there: 416.
    Unsatisfiable,
}

/// The part of `size` bytes with the entity tag `etag` that a GET asks for. Several ranges, other units and what is no range at all are
/// answered by the whole, as the RFC allows; so is a range on condition of another entity tag.
pub(crate) fn part(headers: &HeaderMap, size: u64, etag: &str) -> Part {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Part::Whole };
    if headers.get(IF_RANGE).is_some_and(|condition| condition.as_bytes() != etag.as_bytes()) {
        return Part::Whole;
    }
    value.to_str().ok().and_then(|value| parse_range(value, size)).unwrap_or(Part::Whole)
}

fn parse_range(value: &str, size: u64) -> Option<Part> {
    let (unit, set) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    // A number that does not fit is larger than any blob.
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = if first.is_empty() {
        let count = number(last)?.min(size);
        size - count..size
    } else {
        let first = number(first)?;
        let last = if last.is_empty() { u64::MAX } else { number(last)? };
        if last < first {
            return None;
        }
        first..last.saturating_add(1).min(size)
    };
    Some(if range.start < range.end { Part::Bytes(range) } else { Part::Unsatisfiable })
}

/// Whether `If-None-Match` names one of `etags`: the client has it already.
pub(crate) fn none_match_fails(headers: &HeaderMap, etags: &[&str]) -> bool {
    // A tag of ours has no comma in it.
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|tag| {
        let tag = tag.trim();
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || etags.contains(&tag)
    })
}

/// Whether the client takes zstd.
pub(crate) fn accepts_zstd(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    codings.map(|coding| coding.split_once(';').unwrap_or((coding, ""))).any(|(coding, weight)| {
        let refused = weight.trim().strip_prefix("q=").is_some_and(|weight| weight.trim().parse().is_ok_and(|weight: f32| weight <= 0.0));
        coding.trim().eq_ignore_ascii_case("zstd") && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::HeaderName;

    const TAG: &str = "\"sha256:ab\"";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        let part = |value: &str, size| part(&headers(&[(RANGE, value)]), size, TAG);
        assert_eq!(part("bytes=0-0", 10), Part::Bytes(0..1));
        assert_eq!(part("bytes=0-9", 10), Part::Bytes(0..10));
        assert_eq!(part("bytes=3-", 10), Part::Bytes(3..10));
        assert_eq!(part("bytes=9-99", 10), Part::Bytes(9..10));
        assert_eq!(part("bytes=-3", 10), Part::Bytes(7..10));
        assert_eq!(part("bytes=-30", 10), Part::Bytes(0..10));
        assert_eq!(part("Bytes = 1-2", 10), Part::Bytes(1..3));
        assert_eq!(part("bytes=0-99999999999999999999999", 10), Part::Bytes(0..10));
        assert_eq!(part("bytes=0-18446744073709551615", 10), Part::Bytes(0..10));
        for none in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(part(none, 10), Part::Unsatisfiable, "{none}");
        }
        assert_eq!(part("bytes=0-", 0), Part::Unsatisfiable);
        for whole in ["bytes=0-1,3-4", "lines=1-2", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=+1-2", "bytes=5-2", "bytes=1-2-3"] {
            assert_eq!(part(whole, 10), Part::Whole, "{whole}");
        }
    }

    #[test]
    fn a_range_may_depend_on_the_tag() {
        let part = |condition: &str| part(&headers(&[(RANGE, "bytes=1-2"), (IF_RANGE, condition)]), 10, TAG);
        assert_eq!(part(TAG), Part::Bytes(1..3));
        assert_eq!(part("\"sha256:cd\""), Part::Whole);
        assert_eq!(part("W/\"sha256:ab\""), Part::Whole, "weak tags do not do for ranges");
        assert_eq!(part("Wed, 21 Oct 2015 07:28:00 GMT"), Part::Whole);
    }

    #[test]
    fn a_client_may_have_it_already() {
        let fails = |value: &str| none_match_fails(&headers(&[(IF_NONE_MATCH, value)]), &[TAG]);
        assert!(fails(TAG));
        assert!(fails("*"));
        assert!(fails("\"x\", W/\"sha256:ab\""));
        assert!(!fails("\"x\""));
        assert!(!fails("sha256:ab"));
        assert!(!none_match_fails(&HeaderMap::new(), &[TAG]));
    }

    #[test]
    fn zstd_has_to_be_asked_for() {
        let accepts = |value: &str| accepts_zstd(&headers(&[(ACCEPT_ENCODING, value)]));
        assert!(accepts("gzip, zstd"));
        assert!(accepts("ZSTD;q=0.5"));
        assert!(!accepts("zstd;q=0"));
        assert!(!accepts("zstd;q=0.0"));
        assert!(!accepts("*"));
        assert!(!accepts("gzip"));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_asked_for_is_there(value in "(bytes ?= ?)?[0-9]{0,22}-?[0-9]{0,22}[,x]?|\\PC*", size: u64) {
            let Ok(value) = HeaderValue::from_str(&value) else { return Ok(()) };
            let headers: HeaderMap = [(RANGE, value)].into_iter().collect();
            if let Part::Bytes(range) = part(&headers, size, TAG) {
                proptest::prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
