//! Times and sizes as people write them.

use std::time::Duration;

/// Reads a time such as `250ms`, `1.5s`, `2m`; seconds where no unit is given.
///
/// # Errors
/// In words, when it is none.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 7.0 * 86_400.0,
        "y" => 365.0 * 86_400.0,
        _ => return Err(format!("`{unit}` is no unit of time: us, ms, s, m, h, d, w or y")),
    };
    let value: f64 = number.parse().map_err(|_| format!("`{number}` is no number"))?;
    Duration::try_from_secs_f64(value * scale).map_err(|error| error.to_string())
}

/// Reads a size such as `64M` or `1.5GiB`; bytes where no unit is given. K, M, G are powers of 1024 for memory as for disks here.
///
/// # Errors
/// In words, when it is none.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "" => 0,
        "k" | "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("`{unit}` is no unit of size: K, M, G or T")),
    };
    let value: f64 = number.parse().map_err(|_| format!("`{number}` is no number"))?;
    let bytes = value * (1u64 << shift) as f64;
    // Up to 2^63 every such number fits.
    if bytes.is_finite() && (0.0..9.2e18).contains(&bytes) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        return Ok(bytes as u64);
    }
    Err(format!("`{text}` is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read() {
        assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_time("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_time("1w"), parse_time("7d"));
        assert_eq!((parse_size("64M"), parse_size("1KiB"), parse_size("7")), (Ok(64 << 20), Ok(1024), Ok(7)));
        for bad in ["", "x", "1x", "-1", "nan", "1e400"] {
            assert!(parse_time(bad).is_err() && parse_size(bad).is_err(), "{bad}");
        }
    }
}
