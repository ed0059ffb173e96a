//! Amounts of memory and disk: read from a spec, shown to people.

/// Reads an amount as the spec's fields take it: a whole number, alone or with `Ki`, `Mi`, `Gi` or `Ti`.
///
/// # Errors
/// The text itself, with what would be right.
pub fn parse(text: &str) -> Result<i64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: i64 = match &text[digits..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => 0,
    };
    let bytes = text[..digits].parse::<i64>().ok().filter(|_| unit > 0).and_then(|count| count.checked_mul(unit));
    bytes.ok_or_else(|| {
        format!("{text:?} is not an amount of bytes: write a whole number, alone or with Ki, Mi, Gi, Ti")
    })
}

/// An amount for people: `512 B`, `16.0 MiB`, `1.2 GiB`.
pub fn human(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes.abs() < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while amount.abs() >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("1Ki", 1024), ("16Mi", 16 << 20), ("20Gi", 20 << 30), ("1Ti", 1 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_it_would_misread() {
        for text in ["", "Gi", "-1", "1G", "1.5Gi", "1 Gi", "1gi", "99999999999999999999", "9999999999Ti"] {
            assert!(parse(text).unwrap_err().contains("is not an amount"), "{text}");
        }
    }

    #[test]
    fn shows_one_digit_behind_the_point() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_288_490_189, "1.2 GiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (-2048, "-2.0 KiB"),
            (i64::MAX, "8388608.0 TiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
