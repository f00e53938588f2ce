//! Numbers as people read them: grouped, rounded to what they are worth, with their unit.

/// `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// To three significant digits at least, whole numbers grouped: `0.0123`, `1.23`, `12.3`, `12,345`.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let sign = if value < 0.0 { "−" } else { "" };
    let size = value.abs();
    let text = match size {
        _ if size == 0.0 => "0".to_owned(),
        _ if size >= 99.95 => count(size.round() as u64),
        _ if size >= 9.995 => format!("{size:.1}"),
        _ if size >= 0.9995 => format!("{size:.2}"),
        _ if size >= 0.09995 => format!("{size:.3}"),
        _ => format!("{size:.4}"),
    };
    format!("{sign}{text}")
}

/// A number of milliseconds in the unit that suits it: `85 µs`, `1.23 ms`, `2.50 s`.
pub fn duration(ms: f64) -> String {
    match ms {
        _ if ms == 0.0 => "0 ms".to_owned(),
        _ if ms.abs() < 0.9995 => format!("{} µs", number(ms * 1e3)),
        _ if ms.abs() < 999.5 => format!("{} ms", number(ms)),
        _ => format!("{} s", number(ms / 1e3)),
    }
}

/// Bytes in binary units: `412 MiB`.
pub fn bytes(value: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = value as f64;
    let mut unit = 0;
    while size >= 1_023.95 && unit + 1 < units.len() {
        size /= 1_024.0;
        unit += 1;
    }
    match size.fract() == 0.0 {
        true => format!("{size} {}", units[unit]),
        false => format!("{} {}", number(size), units[unit]),
    }
}

/// Short, for ticks: `0`, `500`, `40k`, `1.5M`.
pub fn short(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{}{suffix}", plain(scaled))
}

/// A tick of milliseconds: `100 µs`, `2 ms`, `1 s`.
pub fn short_duration(ms: f64) -> String {
    match ms {
        _ if ms == 0.0 => "0".to_owned(),
        _ if ms < 0.999_999 => format!("{} µs", plain(ms * 1e3)),
        _ if ms < 999.999 => format!("{} ms", plain(ms)),
        _ => format!("{} s", plain(ms / 1e3)),
    }
}

/// A quantile as a percentage, with as many digits as it has nines: `99.9 %`; at the end, `all`.
pub fn percentile(quantile: f64) -> String {
    if quantile >= 1.0 { "all".to_owned() } else { format!("{} %", plain(quantile * 100.0)) }
}

/// Without digits that say nothing.
pub fn plain(value: f64) -> String {
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// `12,345/s`, or what stands for "not measured".
pub fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_what_they_are_worth() {
        for (value, text) in [
            (0.0, "0"),
            (0.012_34, "0.0123"),
            (1.0, "1.00"),
            (9.999, "10.0"),
            (12.34, "12.3"),
            (99.99, "100"),
            (12_345.6, "12,346"),
            (-2.5, "−2.50"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (count(0), count(999), count(1_000)),
            ("0".into(), "999".into(), "1,000".into())
        );
        assert_eq!(count(1_234_567), "1,234,567");
    }

    #[test]
    fn units_follow_the_size() {
        for (ms, text) in [
            (0.0, "0 ms"),
            (0.085, "85.0 µs"),
            (1.234, "1.23 ms"),
            (431.0, "431 ms"),
            (2_500.0, "2.50 s"),
        ] {
            assert_eq!(duration(ms), text);
        }
        for (size, text) in
            [(0, "0 B"), (1_023, "1023 B"), (24 << 30, "24 GiB"), (432_013_312, "412 MiB")]
        {
            assert_eq!(bytes(size), text);
        }
        for (value, text) in [(0.0, "0"), (500.0, "500"), (40_000.0, "40k"), (1.5e6, "1.5M")] {
            assert_eq!(short(value), text);
        }
        for (ms, text) in [(0.1, "100 µs"), (2.0, "2 ms"), (1_000.0, "1 s")] {
            assert_eq!(short_duration(ms), text);
        }
        for (quantile, text) in
            [(0.0, "0 %"), (0.5, "50 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")]
        {
            assert_eq!(percentile(quantile), text);
        }
    }
}
