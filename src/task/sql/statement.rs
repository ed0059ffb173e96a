//! One statement of a dump, with its tokens.

/// A statement, without comments and its semicolon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// Where it begins, counted from 1.
    pub line: u64,
    pub text: String,
    /// Words, quoted names, strings, single characters.
    tokens: Vec<(usize, usize)>,
}

impl Statement {
    /// `tokens`: from where to where each stands in the text.
    pub fn new(line: u64, text: String, tokens: Vec<(usize, usize)>) -> Self {
        Self { line, text, tokens }
    }

    /// Its tokens as they are written, but for words without quotes: those are in capitals.
    pub fn tokens(&self) -> impl DoubleEndedIterator<Item = String> {
        self.tokens.iter().map(|(from, to)| {
            let token = &self.text[*from..*to];
            if token.starts_with(['"', '\'', '$']) { token.to_owned() } else { token.to_ascii_uppercase() }
        })
    }

    /// How it begins, for people.
    pub fn beginning(&self) -> String {
        beginning(&self.text)
    }
}

/// As much of a text as people need to find it.
pub fn beginning(text: &str) -> String {
    let short: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}
