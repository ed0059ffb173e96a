//! Cuts a script of `pg_dump` into statements, the rows between them, and comments. Pure.
//!
//! It reads byte after byte and only ever looks back, so that it does not matter where a piece of the script ends. What it
//! must know is what PostgreSQL's own lexer knows (`src/backend/parser/scan.l`, `src/fe_utils/psqlscan.l`): in which quotes a
//! semicolon, a dash or a backslash is nothing special.

use super::statement::{Statement, beginning};

/// A longer statement is none of a dump's: rows come by `COPY`.
const STATEMENT_BYTES: usize = 64 << 20;

/// The line behind the rows of a table.
const END_OF_ROWS: &[u8] = b"\\.";

/// What a script consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Statement(Statement),
    /// For `psql` alone, such as `\connect`: a backslash outside of quotes, to the end of the line.
    Command {
        line: u64,
        text: String,
    },
    /// A comment between statements, without its dashes.
    Comment(String),
    /// Whole lines behind [`Lexer::expect_rows`].
    Rows(Vec<u8>),
    /// They are over.
    RowsEnd,
}

/// Why a script cannot be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uncut {
    /// It is none that a dump has.
    Odd { line: u64, what: String },
    /// It ends where something has begun.
    Ends { line: u64, what: &'static str },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Plain,
    LineComment,
    /// How deep: PostgreSQL's nest.
    BlockComment(u32),
    /// `escapes`: a backslash takes the next character's meaning away; `escaped`: it has.
    Quoted {
        escapes: bool,
        escaped: bool,
    },
    Name,
    /// From where to where its tag stands.
    Dollar(usize, usize),
    Command,
    /// From the semicolon of `COPY` to the end of the line.
    BeforeRows,
    Rows,
}

/// The cutter.
#[derive(Debug)]
pub struct Lexer {
    state: State,
    /// What was given and not looked at.
    input: Vec<u8>,
    at: usize,
    line: u64,
    /// Of the statement that has begun: its first line, its bytes, its tokens.
    begun: u64,
    text: Vec<u8>,
    tokens: Vec<(usize, usize)>,
    /// Parentheses that are open: the actions of a rule have semicolons between them.
    open: u32,
    /// Before this nothing of `text` belongs to a pair, such as `--`, or to a word.
    plain_since: usize,
    /// Backslashes are special in the string that came last.
    escapes: bool,
    /// A comment or a command.
    aside: Vec<u8>,
}

impl Default for Lexer {
    fn default() -> Self {
        Self {
            state: State::Plain,
            input: Vec::new(),
            at: 0,
            line: 1,
            begun: 1,
            text: Vec::new(),
            tokens: Vec::new(),
            open: 0,
            plain_since: 0,
            escapes: false,
            aside: Vec::new(),
        }
    }
}

impl Lexer {
    /// Takes more of the script.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(bytes);
    }

    /// Rows follow the statement that came last: a `COPY … FROM stdin`.
    pub fn expect_rows(&mut self) {
        self.state = State::BeforeRows;
    }

    /// The next piece; `None`: it needs more of the script.
    ///
    /// # Errors
    /// The script is none of a dump's.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, Uncut> {
        loop {
            if self.state == State::Rows {
                return Ok(self.rows());
            }
            let Some(&byte) = self.input.get(self.at) else { return Ok(None) };
            self.at += 1;
            let piece = self.step(byte)?;
            self.line += u64::from(byte == b'\n');
            if piece.is_some() {
                return Ok(piece);
            }
        }
    }

    /// The script is over.
    ///
    /// # Errors
    /// It ends in the middle of something.
    pub fn finish(&self) -> Result<(), Uncut> {
        let what = match self.state {
            State::Plain if self.text.trim_ascii().is_empty() => return Ok(()),
            State::LineComment if self.text.trim_ascii().is_empty() => return Ok(()),
            State::Rows | State::BeforeRows => "the rows of a table",
            _ => "a statement",
        };
        Err(Uncut::Ends { line: self.line, what })
    }

    fn step(&mut self, byte: u8) -> Result<Option<Piece>, Uncut> {
        match self.state {
            State::Plain => return self.plain(byte),
            State::LineComment | State::Command if byte == b'\n' => return Ok(self.end_aside()),
            State::LineComment | State::Command => self.aside.push(byte),
            State::BlockComment(depth) => self.block(byte, depth),
            State::Quoted { escapes, escaped } => {
                self.keep(byte)?;
                self.state = State::Quoted { escapes, escaped: escapes && byte == b'\\' && !escaped };
                if byte == b'\'' && !escaped {
                    self.end_token();
                }
            }
            State::Name => {
                self.keep(byte)?;
                if byte == b'"' {
                    self.end_token();
                }
            }
            State::Dollar(from, to) => {
                self.keep(byte)?;
                let (tag, inside) = (&self.text[from..to], &self.text[to..]);
                if byte == b'$' && inside.ends_with(tag) {
                    self.end_token();
                }
            }
            State::BeforeRows if byte == b'\n' => self.state = State::Rows,
            State::BeforeRows if byte.is_ascii_whitespace() => {}
            State::BeforeRows => return Err(self.odd("something stands behind COPY on its line")),
            State::Rows => unreachable!("lines are taken whole"),
        }
        Ok(None)
    }

    fn plain(&mut self, byte: u8) -> Result<Option<Piece>, Uncut> {
        let before = self.text[self.plain_since..].last().copied();
        match (before, byte) {
            (_, b';') if self.open == 0 => return self.statement().map(Some),
            (_, b'\\') => {
                self.aside = vec![byte];
                self.state = State::Command;
                return Ok(None);
            }
            (Some(b'-'), b'-') => return Ok(self.begin_comment(State::LineComment)),
            (Some(b'/'), b'*') => return Ok(self.begin_comment(State::BlockComment(1))),
            _ => {}
        }
        if self.text.is_empty() {
            if byte.is_ascii_whitespace() {
                return Ok(None);
            }
            self.begun = self.line;
        }
        self.keep(byte)?;
        let at = self.text.len() - 1;
        match byte {
            b'(' => self.open += 1,
            b')' => self.open = self.open.saturating_sub(1),
            _ => {}
        }
        match byte {
            b'\'' => self.begin_string(at),
            b'"' => {
                self.begin_quotes(at);
                self.state = State::Name;
            }
            b'$' => self.begin_dollar(at),
            _ if byte.is_ascii_whitespace() => {}
            _ if is_word(byte) && before.is_some_and(is_word) => self.extend_token(at + 1),
            _ => self.begin_token(at),
        }
        Ok(None)
    }

    /// `E'…'` is a word and a string for us: what it is called does not matter, what a backslash means in it does.
    fn begin_string(&mut self, at: usize) {
        let plain = &self.text[self.plain_since..at];
        let prefix = plain.iter().rev().take_while(|byte| is_word(**byte)).count();
        let word = &plain[plain.len() - prefix..];
        // Directly behind its end: a quote in the string. Behind spaces and comments: the same string goes on.
        let goes_on = word.is_empty() && self.tokens.last().is_some_and(|(from, _)| self.text[*from] == b'\'');
        self.escapes = if goes_on { self.escapes } else { word.eq_ignore_ascii_case(b"e") };
        self.begin_quotes(at);
        self.state = State::Quoted { escapes: self.escapes, escaped: false };
    }

    /// `$tag$`, unless it stands in a name, such as `a$b$c`.
    fn begin_dollar(&mut self, at: usize) {
        let plain = &self.text[self.plain_since..at];
        let tag = plain.iter().rev().take_while(|byte| is_word(**byte) && **byte != b'$').count();
        let Some(from) = at.checked_sub(tag + 1).filter(|from| *from >= self.plain_since && self.text[*from] == b'$')
        else {
            if plain.last().copied().is_some_and(is_word) {
                self.extend_token(at + 1)
            } else {
                self.begin_token(at)
            }
            return;
        };
        let in_a_name = from > self.plain_since && is_word(self.text[from - 1]);
        if in_a_name || self.text[from + 1].is_ascii_digit() {
            self.extend_token(at + 1);
            return;
        }
        // The word that began with the dollar is the quote.
        self.tokens.pop_if(|(begin, _)| *begin == from);
        self.begin_token(from);
        self.state = State::Dollar(from, at + 1);
    }

    fn begin_token(&mut self, at: usize) {
        self.tokens.push((at, at + 1));
    }

    /// Behind the end of the same quotes: it was no end.
    fn begin_quotes(&mut self, at: usize) {
        let is_one = |(from, to): &(usize, usize)| *to == at && self.text[*from] == self.text[at];
        if !self.tokens.last().is_some_and(is_one) {
            self.begin_token(at);
        }
    }

    fn extend_token(&mut self, to: usize) {
        if let Some(last) = self.tokens.last_mut() {
            last.1 = to;
        }
    }

    /// Of quotes.
    fn end_token(&mut self) {
        self.extend_token(self.text.len());
        self.plain_since = self.text.len();
        self.state = State::Plain;
    }

    /// The first of its two characters was taken for a token.
    fn begin_comment(&mut self, state: State) -> Option<Piece> {
        self.text.pop();
        self.tokens.pop();
        self.aside.clear();
        self.state = state;
        None
    }

    fn block(&mut self, byte: u8, depth: u32) {
        let pair = (self.aside.pop(), byte);
        // What a pair consisted of is no half of another one.
        let depth = match pair {
            (Some(b'/'), b'*') => depth + 1,
            (Some(b'*'), b'/') => depth - 1,
            _ => {
                self.aside.push(byte);
                depth
            }
        };
        self.state = if depth == 0 { State::Plain } else { State::BlockComment(depth) };
        if depth == 0 {
            self.separate();
        }
    }

    /// A comment within a statement says nothing.
    fn end_aside(&mut self) -> Option<Piece> {
        let text = String::from_utf8_lossy(&self.aside).trim().to_owned();
        let was = std::mem::replace(&mut self.state, State::Plain);
        let between = self.text.trim_ascii().is_empty();
        self.separate();
        match was {
            State::Command => Some(Piece::Command { line: self.line, text: beginning(&text) }),
            _ => between.then_some(Piece::Comment(text)),
        }
    }

    /// A comment stands for a space.
    fn separate(&mut self) {
        if !self.text.is_empty() {
            self.text.push(b' ');
        }
        self.plain_since = self.text.len();
    }

    fn keep(&mut self, byte: u8) -> Result<(), Uncut> {
        if self.text.len() >= STATEMENT_BYTES {
            return Err(self.odd("a statement is longer than 64 MiB: dump without --inserts"));
        }
        self.text.push(byte);
        Ok(())
    }

    fn odd(&self, what: &str) -> Uncut {
        Uncut::Odd { line: self.line, what: what.to_owned() }
    }

    fn statement(&mut self) -> Result<Piece, Uncut> {
        let text = String::from_utf8(std::mem::take(&mut self.text))
            .map_err(|_| self.odd("it is not UTF-8: dump with --encoding=UTF8"))?;
        self.plain_since = 0;
        Ok(Piece::Statement(Statement::new(self.begun, text, std::mem::take(&mut self.tokens))))
    }

    /// All whole lines that are there, up to the end of the rows.
    fn rows(&mut self) -> Option<Piece> {
        let input = &self.input[self.at..];
        let (mut taken, mut lines) = (0, 0);
        while let Some(length) = memchr::memchr(b'\n', &input[taken..]) {
            let line = &input[taken..taken + length];
            if line.strip_suffix(b"\r").unwrap_or(line) == END_OF_ROWS {
                if taken > 0 {
                    break;
                }
                self.at += length + 1;
                self.line += 1;
                self.state = State::Plain;
                return Some(Piece::RowsEnd);
            }
            taken += length + 1;
            lines += 1;
        }
        if taken == 0 {
            return None;
        }
        let rows = input[..taken].to_vec();
        self.at += taken;
        self.line += lines;
        Some(Piece::Rows(rows))
    }
}

/// What a name or a number consists of.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

#[cfg(test)]
mod tests;
