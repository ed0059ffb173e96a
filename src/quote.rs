//! Names and texts in statements that take no parameters, such as `ALTER DATABASE`.

/// An identifier: inside double quotes nothing is special but the quote itself.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// The schema of a quoted name such as `"my schema".events`, as SQL has it. A name without a schema has none.
pub fn schema_of(name: &str) -> &str {
    let mut is_quoted = false;
    let dot = name.find(|any: char| {
        is_quoted ^= any == '"';
        any == '.' && !is_quoted
    });
    &name[..dot.unwrap_or_default()]
}

/// The parts of a name such as `public."T 1"`, without their quotes. What stands in no quotes is taken as it is. `None`: it is not
/// clear where a part ends.
pub fn parts(name: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = name;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => until_quote(quoted)?,
            None => {
                let (part, after) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
                (part.to_owned(), after)
            }
        };
        if part.is_empty() || (!rest.starts_with('"') && part.contains('"')) {
            return None;
        }
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None => return after.is_empty().then_some(parts),
        }
    }
}

/// What stands before the closing quote, and what stands behind it.
fn until_quote(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        part.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                part.push('"');
                rest = next;
            }
            None => return Some((part, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::quote::*;

    #[test]
    fn a_schema_may_have_any_name() {
        for (name, schema) in [
            ("public.events", "public"),
            ("\"a.b\".events", "\"a.b\""),
            ("\"a\"\".b\".\"x.y\"", "\"a\"\".b\""),
            ("events", ""),
        ] {
            assert_eq!(schema_of(name), schema, "{name}");
        }
    }

    #[test]
    fn a_name_has_parts() {
        for (name, wanted) in [
            ("public.events", Some(vec!["public", "events"])),
            ("Public.T 1*", Some(vec!["Public", "T 1*"])),
            ("\"a.b\".\"c\"\"d\"", Some(vec!["a.b", "c\"d"])),
            ("\"\"\"\".x", Some(vec!["\"", "x"])),
            ("events", Some(vec!["events"])),
            ("a.b.c", Some(vec!["a", "b", "c"])),
            ("a.", None),
            (".a", None),
            ("a\"b.c", None),
            ("\"a\"b.c", None),
            ("\"a.b", None),
            ("", None),
        ] {
            let wanted = wanted.map(|parts| parts.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(parts(name), wanted, "{name}");
        }
    }

    #[test]
    fn nothing_gets_out_of_its_quotes() {
        assert_eq!(ident("a\"; DROP DATABASE b"), "\"a\"\"; DROP DATABASE b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'"), " E'a\\\\'''");
    }
}
