//! Sizes, rates and times as people read them.

use std::time::Duration;

const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];

/// `17 B`, `4.0 KiB`, `256 MiB`: three digits or so.
pub fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(value < 99.95);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `11.2 MiB/s`.
pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// `0:07`, `12:30`, `3:05:00`.
pub fn clock(duration: Duration) -> String {
    let secs = duration.as_secs();
    let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// `0.04 s`, `2.3 s`, `12:30`: how long something took.
pub fn took(duration: Duration) -> String {
    let secs = duration.as_secs_f64();
    if secs < 0.095 {
        format!("{secs:.2} s")
    } else if secs < 60.0 {
        format!("{secs:.1} s")
    } else {
        clock(duration)
    }
}

/// `0.4 ms`, `23 ms`: a round trip.
pub fn rtt(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    if millis < 9.95 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

/// What part of a whole, in whole percent; 100 only when it is all there.
pub fn percent(part: u64, whole: u64) -> u64 {
    if part >= whole { 100 } else { u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(99) }
}

/// How long the rest takes at this rate.
pub fn eta(rest_bytes: u64, rate_bps: u64) -> Option<Duration> {
    (rate_bps > 0).then(|| Duration::from_secs(rest_bytes.div_ceil(rate_bps)))
}

/// `1 file`, `3 files`.
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_or_so() {
        let shown = [0, 1023, 1024, 104_448, 1_048_575, 1 << 28, 5_000_000_000, u64::MAX].map(bytes);
        let expected = ["0 B", "1023 B", "1.0 KiB", "102 KiB", "1.0 MiB", "256 MiB", "4.7 GiB", "16384 PiB"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn times_are_short() {
        assert_eq!(clock(Duration::from_secs(7)), "0:07");
        assert_eq!(clock(Duration::from_secs(11_100)), "3:05:00");
        assert_eq!(took(Duration::from_millis(42)), "0.04 s");
        assert_eq!(took(Duration::from_millis(2_340)), "2.3 s");
        assert_eq!(took(Duration::from_secs(750)), "12:30");
        assert_eq!(rtt(Duration::from_micros(430)), "0.4 ms");
        assert_eq!(rtt(Duration::from_millis(87)), "87 ms");
    }

    #[test]
    fn a_hundred_percent_is_everything() {
        assert_eq!(percent(999, 1000), 99);
        assert_eq!(percent(1000, 1000), 100);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
    }

    #[test]
    fn the_rest_takes_its_time() {
        assert_eq!(eta(1000, 100), Some(Duration::from_secs(10)));
        assert_eq!(eta(1000, 0), None);
    }
}
