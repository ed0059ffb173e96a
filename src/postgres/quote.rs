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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn nothing_gets_out_of_its_quotes() {
        assert_eq!(ident("a\"; DROP DATABASE b"), "\"a\"\"; DROP DATABASE b\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'"), " E'a\\\\'''");
    }
}
