//! A duration as people write it: `30m`, `1h30m`, `90d`, `2w`.

use std::{fmt, str::FromStr};

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A positive span of time in whole seconds, written with the units `w`, `d`, `h`, `m`, `s`.
///
/// A day is 24 hours and a week 7 days. The text is kept as the user wrote it, so that a round trip through the API
/// server changes nothing (a changed spelling shows up as drift in GitOps tools).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration {
    text: String,
    seconds: i64,
}

impl Duration {
    /// The span as a `jiff` duration, for arithmetic with timestamps.
    pub fn to_signed(&self) -> SignedDuration {
        SignedDuration::from_secs(self.seconds)
    }

    /// The span in seconds.
    pub fn as_secs(&self) -> i64 {
        self.seconds
    }
}

/// Ten years, in seconds: whoever writes more means "for ever". It can be added to any time, and jiff's sums that go beyond
/// its calendar panic.
const LONGEST: i64 = 10 * 365 * 86_400;

/// Why a text is not a duration.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a duration: write numbers above 0 with the units w, d, h, m or s, such as 90d or 1h30m")]
pub struct InvalidDuration(String);

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration(text.to_owned());
        let mut seconds: i64 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
            let count: i64 = rest[..digits].parse().map_err(|_| invalid())?;
            let unit = match rest[digits..].chars().next() {
                Some('w') => 7 * 86_400,
                Some('d') => 86_400,
                Some('h') => 3_600,
                Some('m') => 60,
                Some('s') => 1,
                _ => return Err(invalid()),
            };
            seconds = count.checked_mul(unit).and_then(|span| seconds.checked_add(span)).ok_or_else(invalid)?;
            rest = &rest[digits + 1..];
        }
        if seconds == 0 {
            return Err(invalid());
        }
        Ok(Self { text: text.to_owned(), seconds: seconds.min(LONGEST) })
    }
}

impl TryFrom<String> for Duration {
    type Error = InvalidDuration;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.text
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    // The first number is above 0, so the span is; that way the pattern also takes what Go writes, such as `1h0m0s`.
    // A pattern and not `format: duration`: Go's format also takes `90 days` and `1.5h`, which this type does not.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 20, "pattern": "^[1-9][0-9]{0,5}[wdhms]([0-9]{1,6}[wdhms])*$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_sums_them() {
        for (text, seconds) in
            [("1h0m0s", 3_600), ("90d", 7_776_000), ("2w", 1_209_600), ("1h30m", 5_400), ("1m1s", 61)]
        {
            assert_eq!(text.parse::<Duration>().unwrap().as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn can_be_added_to_any_time() {
        let longest: Duration = "999999w999999w".parse().unwrap();
        assert_eq!(longest.as_secs(), LONGEST);
        let far = "2200-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap();
        let _ = (far + longest.to_signed(), far - longest.to_signed());
    }

    #[test]
    fn keeps_the_spelling() {
        let duration: Duration = serde_json::from_str("\"60m\"").unwrap();
        assert_eq!(serde_json::to_string(&duration).unwrap(), "\"60m\"");
    }

    #[test]
    fn refuses_what_it_would_misread() {
        for text in [
            "",
            "0s",
            "0h00m",
            "90",
            "d",
            "1.5h",
            "-1h",
            "1h 30m",
            "9 days",
            "99999999999999999999s",
            "9223372036854775807w",
        ] {
            let error = text.parse::<Duration>().unwrap_err().to_string();
            assert!(error.contains("is not a duration"), "{text}: {error}");
        }
    }
}
