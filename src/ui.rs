//! What people see: sizes, times, progress, tables.

use indicatif::{ProgressBar, ProgressStyle};
use preheat::Digest;
use preheat::remote::{Blob, Progress};
pub(crate) use preheat_call::text::{parse_size, parse_time};
use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Prints to standard output; see [`print`].
macro_rules! say {
    ($($part:tt)*) => {
        $crate::ui::print(&format!("{}\n", format_args!($($part)*)))
    };
}
pub(crate) use say;

/// Writes to standard output. If nobody reads it any more, as in `preheat ls | head -1`, that is the end of this process and no error to
/// talk about; a full disk is one.
pub(crate) fn print(text: &str) {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            eprintln!("preheat: can't write to standard output: {error}");
        }
        std::process::exit(i32::from(crate::exit::STORAGE));
    }
}

/// `1.4 MB`: decimal units, as disks and networks have them.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `1.24 ms`: three digits.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

/// `2026-03-14 15:09 UTC`, of seconds since 1970.
pub(crate) fn date(seconds: u64) -> String {
    // Days to year, month and day of the Gregorian calendar, counted in years that begin in March so that the leap day comes last.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

/// A spinner with a text on standard error, if that is a terminal.
pub(crate) fn spinner(text: String) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(text);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar over bytes on standard error, if that is a terminal.
pub(crate) fn byte_bar(total: u64, text: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // The template is a constant; the default style is as good if it should ever be wrong.
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_message(text)
}

/// Shows transfers as one bar over all their bytes, if standard error is a terminal.
pub(crate) struct TransferBar {
    bar: ProgressBar,
    done: Mutex<HashMap<Digest, u64>>,
}

impl TransferBar {
    pub(crate) fn new(text: &'static str) -> Self {
        Self { bar: byte_bar(0, text), done: Mutex::default() }
    }

    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for TransferBar {
    fn begin(&self, _: usize, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    fn moved(&self, blob: &Blob, done: u64) {
        let mut all = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(blob.digest, done);
        self.bar.set_position(all.values().sum());
    }
}

/// Columns, aligned; numbers are the caller's to align.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Prints a value as one line of JSON on standard output.
pub(crate) fn print_json(value: &serde_json::Value) {
    say!("{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_three_digits() {
        assert_eq!((bytes(999), bytes(1000), bytes(43_212_345)), ("999 B".into(), "1.0 kB".into(), "43.2 MB".into()));
        assert_eq!(time(Duration::from_nanos(1240)), "1.24 µs");
        assert_eq!(time(Duration::from_micros(12_400)), "12.4 ms");
        assert_eq!(time(Duration::from_secs(124)), "124 s");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
        // Far beyond any calendar, and still no panic.
        assert!(date(u64::MAX).ends_with("UTC"));
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(&rows), "a    b\nccc  d\n");
    }
}
