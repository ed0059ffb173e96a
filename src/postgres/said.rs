//! What `psql` prints of an error, told by its structure: PostgreSQL translates its words, and nobody's decision may rest on
//! those.
//!
//! With `VERBOSITY=verbose` an error is `SEVERITY:  CODE: words`, whatever the language; two blanks stand behind the first colon.

/// What `psql` has to be started with.
pub const VERBOSE: &str = "--set=VERBOSITY=verbose";

/// An error that PostgreSQL reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: String,
    /// The line of the file that `psql` was at.
    pub line: Option<usize>,
    /// Without the place in PostgreSQL's source.
    pub words: String,
}

/// The errors in what `psql` printed, in their order. Warnings and notices are none.
pub fn refusals(printed: &str) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = Vec::new();
    let mut is_error = false;
    for line in printed.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some((place, code, words)) = code_and_words(line) {
            is_error = !["00", "01", "02"].iter().any(|class| code.starts_with(class));
            if is_error {
                refusals.push(Refusal { code: code.to_owned(), line: line_of(place), words: words.to_owned() });
            }
        } else if let Some(last) = refusals.last_mut().filter(|_| is_error && !line.starts_with("LOCATION:")) {
            last.words = format!("{}; {line}", last.words);
        }
    }
    refusals
}

/// `psql:file:82: FEHLER:  42P01: Relation »x« existiert nicht`
fn code_and_words(line: &str) -> Option<(&str, &str, &str)> {
    let (place, rest) = line.split_once(":  ")?;
    let (code, words) = rest.split_once(": ")?;
    let is_code = code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    is_code.then_some((place, code, words))
}

/// `psql:file:82: FEHLER`
fn line_of(place: &str) -> Option<usize> {
    place.rsplit_once(": ")?.0.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_in_every_language() {
        let printed = "psql:/tmp/a.query:3: WARNUNG:  01000: nur so\nLOCATION:  a, b.c:1\n\
                       psql:/tmp/a.query:82: FEHLER:  23505: doppelter Schlüsselwert verletzt Unique-Constraint »a:  b«\n\
                       DETAIL:  Schlüssel »(a)=(1)« existiert bereits.\nLOCATION:  _bt_check_unique, nbtinsert.c:664\n\
                       psql:<stdin>:9: ERROR:  42704: role \"x\" does not exist\n";
        assert_eq!(
            refusals(printed),
            [
                Refusal {
                    code: "23505".to_owned(),
                    line: Some(82),
                    words: "doppelter Schlüsselwert verletzt Unique-Constraint »a:  b«; DETAIL:  Schlüssel »(a)=(1)« existiert \
                            bereits."
                        .to_owned()
                },
                Refusal { code: "42704".to_owned(), line: Some(9), words: "role \"x\" does not exist".to_owned() },
            ]
        );
    }

    #[test]
    fn what_is_no_error_of_postgresql_s_has_no_code() {
        for printed in [
            "",
            "psql: error: connection to server at \"::1\", port 5432 failed: FATAL:  the database system is starting up",
            "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally",
            "psql: error: a.sql: No such file or directory",
            "HINT:  Two: words",
        ] {
            assert_eq!(refusals(printed), [], "{printed}");
        }
    }
}
