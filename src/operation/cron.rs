//! A cron expression, read, or refused in words that name the part that is wrong.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

/// One of the five fields.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    /// Names that stand for numbers.
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, words: &[] },
    Field { name: "hour", least: 0, most: 23, words: &[] },
    Field { name: "day of month", least: 1, most: 31, words: &[] },
    Field {
        name: "month",
        least: 1,
        most: 12,
        words: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    Field { name: "day of the week", least: 0, most: 7, words: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] },
];

/// Reads an expression of five fields, or a nickname such as `@daily`.
///
/// # Errors
/// What is wrong with it, for people, without a full stop.
pub fn read(text: &str) -> Result<Cron, String> {
    // The parser does not know every nickname that cron(8) has.
    let known = if text.eq_ignore_ascii_case("@midnight") { "@daily" } else { text };
    parse(known).map_err(|error| {
        let by_parser = || error.to_string().trim_end_matches('.').to_owned();
        wrong_part(text).unwrap_or_else(by_parser)
    })
}

fn parse(text: &str) -> Result<Cron, croner::errors::CronError> {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(text)
}

/// The first part that the parser does not take. `None`: it is none of the parts alone.
fn wrong_part(text: &str) -> Option<String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let (count, s) = (fields.len(), if fields.len() == 1 { "" } else { "s" });
        return Some(format!("it has {count} field{s}"));
    }
    FIELDS.iter().zip(fields).enumerate().find_map(|(place, (field, written))| {
        let mut items = written.split(',').filter(|item| !item.is_empty());
        let item = items.find(|item| !field.takes(place, item))?;
        Some(field.explain(item))
    })
}

impl Field {
    /// The parser reads this item in this field.
    fn takes(&self, place: usize, item: &str) -> bool {
        let mut alone = ["*"; FIELDS.len()];
        alone[place] = item;
        parse(&alone.join(" ")).is_ok()
    }

    /// Why the parser does not read this item.
    fn explain(&self, item: &str) -> String {
        let Self { name, least, most, .. } = self;
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let within = |part: &str| if part == item { String::new() } else { format!(" in {item:?}") };
        for part in range.split(['-', '#']).filter(|part| !part.is_empty()) {
            let number = part.parse::<u32>();
            match number {
                Ok(number) if number < *least || number > *most => {
                    return format!("{name} {number}{} is not between {least} and {most}", within(part));
                }
                Err(_) if part.bytes().all(|byte| byte.is_ascii_digit()) => {
                    return format!("{name} {part} is not between {least} and {most}");
                }
                Err(_) if part.chars().all(char::is_alphabetic) && !self.knows(part) => {
                    return format!("{part:?}{} is no {name}", within(part));
                }
                _ => {}
            }
        }
        if let Some(step) = step.filter(|step| step.parse::<u32>().map_or(true, |step| step == 0 || step > *most)) {
            return format!("the step {step:?} in {item:?} is not between 1 and {most}");
        }
        let ends = range.split_once('-').and_then(|(from, to)| Some((self.number(from)?, self.number(to)?)));
        if ends.is_some_and(|(from, to)| from > to) {
            return format!("the range {item:?} of {name} runs backwards");
        }
        format!("{item:?} is no {name}")
    }

    fn knows(&self, word: &str) -> bool {
        // Last day, and the weekday that is nearest: the parser has its own rules for these.
        self.words.iter().any(|known| known.eq_ignore_ascii_case(word)) || matches!(word, "L" | "l" | "W" | "w")
    }

    fn number(&self, part: &str) -> Option<u32> {
        let of_word = || self.words.iter().position(|known| known.eq_ignore_ascii_case(part));
        part.parse().ok().or_else(|| Some(of_word()? as u32 + self.least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrong_part_is_named() {
        for (text, said) in [
            ("99 3 * * *", "minute 99 is not between 0 and 59"),
            ("0 25 * * *", "hour 25 is not between 0 and 23"),
            ("0 2 0 * *", "day of month 0 is not between 1 and 31"),
            ("0 2 1-32 * *", "day of month 32 in \"1-32\" is not between 1 and 31"),
            ("0 2 * 13 *", "month 13 is not between 1 and 12"),
            ("0 2 * * 1,8", "day of the week 8 is not between 0 and 7"),
            ("0 2 * * 99999999999", "day of the week 99999999999 is not between 0 and 7"),
            ("0 2 * * Mon-Fry", "\"Fry\" in \"Mon-Fry\" is no day of the week"),
            ("0 2 * Janember *", "\"Janember\" is no month"),
            ("0 noon * * *", "\"noon\" is no hour"),
            ("*/0 * * * *", "the step \"0\" in \"*/0\" is not between 1 and 59"),
            ("0 22-4 * * *", "the range \"22-4\" of hour runs backwards"),
            ("0 2 * * FRI-MON", "the range \"FRI-MON\" of day of the week runs backwards"),
            ("0 5L * * *", "\"5L\" is no hour"),
            ("0 2 * *", "it has 4 fields"),
            ("daily", "it has 1 field"),
            ("0 0 2 * * *", "it has 6 fields"),
        ] {
            let why = read(text).expect_err(text);
            assert_eq!(why, said, "{text}");
        }
    }

    #[test]
    fn what_cron_knows_is_read() {
        for text in [
            "@yearly",
            "@annually",
            "@monthly",
            "@weekly",
            "@daily",
            "@midnight",
            "@hourly",
            "*/15 1-5 1,15 JAN-MAR MON-FRI",
            "30 2 L * *",
            "0 4 * * SUN#2",
            "0 3 * * 7",
            "0 3 ? * mon",
        ] {
            assert!(read(text).is_ok(), "{text}: {:?}", read(text));
        }
    }
}
