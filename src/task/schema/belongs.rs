//! The list: what a statement needs besides the ownership of a database. Pure.
//!
//! From PostgreSQL's reference pages of the statements, "must be superuser" and the like (14 to 18), and from its catalogs: who owns
//! a database can make tables, views, functions in trusted languages, trusted extensions, publications of its own tables.

use crate::{quote, task::sql::statement::Statement};

/// What only a superuser can make, or what is a matter of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    AccessMethod,
    BaseType,
    BinaryCast,
    EventTrigger,
    ForeignServer,
    ForeignTable,
    ForeignWrapper,
    Language,
    LargeObject,
    OperatorClass,
    Publication,
    SecurityLabel,
    Subscription,
    TextSearch,
    Transform,
    UntrustedFunction,
    UserMapping,
}

impl Kind {
    /// Several of them, for people.
    pub fn plural(self) -> &'static str {
        match self {
            Self::AccessMethod => "access methods",
            Self::BaseType => "base types",
            Self::BinaryCast => "casts",
            Self::EventTrigger => "event triggers",
            Self::ForeignServer => "foreign servers",
            Self::ForeignTable => "foreign tables",
            Self::ForeignWrapper => "foreign-data wrappers",
            Self::Language => "procedural languages",
            Self::LargeObject => "large objects",
            Self::OperatorClass => "operator classes and families",
            Self::Publication => "publications",
            Self::SecurityLabel => "security labels",
            Self::Subscription => "subscriptions",
            Self::TextSearch => "text search parsers and templates",
            Self::Transform => "transforms",
            Self::UntrustedFunction => "functions in untrusted languages",
            Self::UserMapping => "user mappings",
        }
    }
}

/// What a statement needs of the server, or of whoever runs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A superuser.
    Superuser(Kind),
    /// An extension of this name: a trusted one, its owner can make.
    Extension(String),
    /// A role of this name.
    Role(String),
    /// A collation of PostgreSQL's own: it stands for a locale of the machine.
    Collation(String),
    /// The locale that a new collation names.
    Locale,
}

/// What a statement of a dump needs.
pub fn needs(statement: &Statement) -> Vec<Need> {
    let tokens: Vec<String> = statement.tokens().collect();
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut needs = match words[..] {
        ["CREATE", "EXTENSION", ..] => extension(&words).map(Need::Extension).into_iter().collect(),
        ["CREATE", "POLICY", ..] => roles(&words).into_iter().map(Need::Role).collect(),
        ["CREATE", "COLLATION", ..] => vec![Need::Locale],
        _ => superuser_s(&words).map(Need::Superuser).into_iter().collect(),
    };
    let collations = words.windows(4).filter_map(|some| match some {
        ["COLLATE", "PG_CATALOG", ".", name] => Some(Need::Collation(unquoted(name))),
        _ => None,
    });
    needs.extend(collations);
    needs.sort();
    needs.dedup();
    needs
}

/// Whether only a superuser can run it, or it is a matter of the server.
fn superuser_s(words: &[&str]) -> Option<Kind> {
    let (verb, words) = words.split_first()?;
    let kind = match (*verb, words) {
        ("CREATE" | "ALTER" | "DROP", ["EVENT", "TRIGGER", ..]) => Kind::EventTrigger,
        ("CREATE" | "ALTER" | "DROP", ["SUBSCRIPTION", ..]) => Kind::Subscription,
        ("CREATE" | "ALTER" | "DROP", ["SERVER", ..]) => Kind::ForeignServer,
        ("CREATE" | "ALTER" | "DROP", ["USER", "MAPPING", ..]) => Kind::UserMapping,
        ("CREATE" | "ALTER" | "DROP", ["FOREIGN", "DATA", ..]) => Kind::ForeignWrapper,
        ("CREATE" | "ALTER" | "DROP", ["FOREIGN", "TABLE", ..]) => Kind::ForeignTable,
        ("CREATE" | "ALTER" | "DROP", ["OPERATOR", "CLASS" | "FAMILY", ..]) => Kind::OperatorClass,
        ("CREATE" | "ALTER" | "DROP", ["ACCESS", "METHOD", ..]) => Kind::AccessMethod,
        ("CREATE" | "ALTER" | "DROP", ["TEXT", "SEARCH", "PARSER" | "TEMPLATE", ..]) => Kind::TextSearch,
        ("CREATE" | "DROP", ["TRANSFORM", ..]) => Kind::Transform,
        ("CREATE", ["OR", "REPLACE", rest @ ..]) if is_language(rest) => Kind::Language,
        ("CREATE" | "ALTER" | "DROP", rest) if is_language(rest) => Kind::Language,
        ("ALTER", ["LARGE", "OBJECT", ..]) => Kind::LargeObject,
        ("SELECT", ["PG_CATALOG", ".", function, ..]) if function.starts_with("LO_") || *function == "LOWRITE" => {
            Kind::LargeObject
        }
        ("SECURITY", ["LABEL", ..]) => Kind::SecurityLabel,
        ("CREATE", ["PUBLICATION", _, "FOR", rest @ ..]) if of_more_than_tables(rest) => Kind::Publication,
        ("ALTER", ["PUBLICATION", _, "ADD" | "SET", rest @ ..]) if of_more_than_tables(rest) => Kind::Publication,
        ("CREATE", ["TYPE", rest @ ..]) if is_base_type(rest) => Kind::BaseType,
        ("CREATE", ["CAST", rest @ ..]) if rest.windows(2).any(|some| some == ["WITHOUT", "FUNCTION"]) => {
            Kind::BinaryCast
        }
        // Other untrusted languages come with an extension, on which the function depends.
        ("CREATE", _) if matches!(language(words).as_deref(), Some("c" | "internal")) => Kind::UntrustedFunction,
        _ => return None,
    };
    Some(kind)
}

/// `FOR ALL TABLES`, `FOR TABLES IN SCHEMA`.
fn of_more_than_tables(words: &[&str]) -> bool {
    words.starts_with(&["ALL"]) || words.windows(3).any(|some| some == ["TABLES", "IN", "SCHEMA"])
}

fn is_language(words: &[&str]) -> bool {
    matches!(
        words,
        ["LANGUAGE", ..] | ["TRUSTED" | "PROCEDURAL", "LANGUAGE", ..] | ["TRUSTED", "PROCEDURAL", "LANGUAGE", ..]
    )
}

/// `CREATE TYPE public.a (INPUT = …)`, or a shell of one: `CREATE TYPE public.a`. Others go on with `AS`.
fn is_base_type(words: &[&str]) -> bool {
    let rest = match words {
        [_, ".", _, rest @ ..] => rest,
        [_, rest @ ..] => rest,
        [] => return false,
    };
    matches!(rest, [] | ["(", ..])
}

/// `CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public`
fn extension(words: &[&str]) -> Option<String> {
    let name = match words {
        [_, _, "IF", "NOT", "EXISTS", name, ..] | [_, _, name, ..] => name,
        _ => return None,
    };
    Some(unquoted(name))
}

/// The language of a function: not in the brackets of its arguments, and before its body.
fn language(words: &[&str]) -> Option<String> {
    let is_routine = matches!(words, ["FUNCTION" | "PROCEDURE", ..] | ["OR", "REPLACE", "FUNCTION" | "PROCEDURE", ..]);
    let mut depth = 0;
    for pair in words.windows(2).filter(|_| is_routine) {
        match pair {
            ["(", _] => depth += 1,
            [")", _] => depth -= 1,
            ["LANGUAGE", name] if depth == 0 => return Some(unquoted(name)),
            _ => {}
        }
    }
    None
}

/// `CREATE POLICY a ON public.b FOR SELECT TO c, "D" USING (…)`: roles, but for those that are always there.
fn roles(words: &[&str]) -> Vec<String> {
    let to = words.iter().position(|word| *word == "TO").map_or(words.len(), |at| at + 1);
    let listed = words[to..].iter().take_while(|word| !matches!(**word, "USING" | "WITH"));
    let named =
        listed.filter(|word| !matches!(**word, "," | "PUBLIC" | "CURRENT_USER" | "SESSION_USER" | "CURRENT_ROLE"));
    named.map(|word| unquoted(word)).collect()
}

/// What a superuser types for a statement that only a superuser can run. Its schema comes first: it is not there yet, and the role that
/// restores makes what else belongs into it. That role does not own it, because a restore in place drops what it owns.
pub fn for_a_superuser(statement: &Statement, role: &str) -> Vec<String> {
    let schema = schema(statement).filter(|schema| !["public", "pg_catalog"].contains(&schema.as_str()));
    let made = schema.map(|schema| {
        let (schema, role) = (quote::ident(&schema), quote::ident(role));
        [format!("CREATE SCHEMA IF NOT EXISTS {schema}"), format!("GRANT ALL ON SCHEMA {schema} TO {role}")]
    });
    made.into_iter().flatten().chain([statement.text.clone()]).collect()
}

/// Where a statement of `pg_dump` makes something: it writes each name with its schema.
fn schema(statement: &Statement) -> Option<String> {
    let tokens: Vec<String> = statement.tokens().collect();
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    match words[..] {
        ["CREATE", "EXTENSION", ..] => words.windows(2).find(|pair| pair[0] == "SCHEMA").map(|pair| unquoted(pair[1])),
        ["CREATE", ..] => words.windows(3).find(|three| three[1] == ".").map(|three| unquoted(three[0])),
        _ => None,
    }
}

/// A name as the catalogs have it.
pub fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(name) => name.replace("\"\"", "\""),
        None => name.trim_matches('\'').to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::sql::lexer::{Lexer, Piece};

    fn statement(text: &str) -> Statement {
        let mut lexer = Lexer::default();
        lexer.push(text.as_bytes());
        lexer.push(b";");
        match lexer.next_piece() {
            Ok(Some(Piece::Statement(statement))) => statement,
            other => panic!("{other:?}"),
        }
    }

    fn of(text: &str) -> Vec<Need> {
        needs(&statement(text))
    }

    #[test]
    fn what_a_superuser_types_makes_its_schema() {
        for (made, schema) in [
            ("CREATE EXTENSION IF NOT EXISTS bloom WITH SCHEMA \"Ext\"", Some("\"Ext\"")),
            ("CREATE EXTENSION IF NOT EXISTS bloom WITH SCHEMA public", None),
            ("CREATE FUNCTION ext.half(public.a) RETURNS integer LANGUAGE c AS 'x', 'y'", Some("\"ext\"")),
            ("CREATE FUNCTION public.half(ext.a) RETURNS integer LANGUAGE c AS 'x', 'y'", None),
            ("CREATE LANGUAGE plsample HANDLER ext.call", Some("\"ext\"")),
            ("ALTER TYPE ext.a SET SCHEMA public", None),
        ] {
            let before = schema.map(|schema| {
                [
                    format!("CREATE SCHEMA IF NOT EXISTS {schema}"),
                    format!("GRANT ALL ON SCHEMA {schema} TO \"Synapse\""),
                ]
            });
            let wanted: Vec<String> = before.into_iter().flatten().chain([made.to_owned()]).collect();
            assert_eq!(for_a_superuser(&statement(made), "Synapse"), wanted);
        }
    }

    #[test]
    fn what_a_superuser_must_make_is_known() {
        use Kind::*;
        for (statement, kind) in [
            ("CREATE EVENT TRIGGER a ON ddl_command_end EXECUTE FUNCTION public.b()", EventTrigger),
            ("ALTER EVENT TRIGGER a DISABLE", EventTrigger),
            ("CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert')", Publication),
            ("ALTER PUBLICATION p ADD TABLES IN SCHEMA public", Publication),
            ("CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION y", Subscription),
            ("CREATE FOREIGN DATA WRAPPER w HANDLER public.h", ForeignWrapper),
            ("CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'h')", ForeignServer),
            ("CREATE USER MAPPING FOR synapse SERVER s", UserMapping),
            ("CREATE FOREIGN TABLE public.f (a integer) SERVER s", ForeignTable),
            ("ALTER FOREIGN TABLE public.f OWNER TO a", ForeignTable),
            (
                "CREATE FUNCTION public.f(language text) RETURNS bigint LANGUAGE c STRICT AS '$libdir/a', 'b'",
                UntrustedFunction,
            ),
            ("CREATE FUNCTION public.f() RETURNS bigint LANGUAGE internal AS 'now'", UntrustedFunction),
            ("CREATE PROCEDURE public.f() LANGUAGE c AS '$libdir/a', 'b'", UntrustedFunction),
            ("CREATE OR REPLACE PROCEDURAL LANGUAGE plfoo", Language),
            ("CREATE TRUSTED PROCEDURAL LANGUAGE plfoo HANDLER public.h", Language),
            ("CREATE OPERATOR CLASS public.a FOR TYPE integer USING btree AS OPERATOR 1 <", OperatorClass),
            ("CREATE OPERATOR FAMILY public.a USING btree", OperatorClass),
            ("CREATE ACCESS METHOD a TYPE TABLE HANDLER heap_tableam_handler", AccessMethod),
            ("CREATE TEXT SEARCH PARSER public.a (START = b)", TextSearch),
            ("CREATE TEXT SEARCH TEMPLATE public.a (LEXIZE = b)", TextSearch),
            ("CREATE TYPE public.a (INPUT = public.in, OUTPUT = public.out)", BaseType),
            ("CREATE TYPE public.a", BaseType),
            ("CREATE CAST (public.a AS public.b) WITHOUT FUNCTION AS IMPLICIT", BinaryCast),
            ("CREATE TRANSFORM FOR public.a LANGUAGE plfoo (FROM SQL WITH FUNCTION b(internal))", Transform),
            ("SECURITY LABEL FOR selinux ON TABLE public.events IS 'x'", SecurityLabel),
            ("SELECT pg_catalog.lo_create('30210')", LargeObject),
            ("SELECT pg_catalog.lowrite(0, '\\x00')", LargeObject),
            ("ALTER LARGE OBJECT 30210 OWNER TO a", LargeObject),
        ] {
            assert_eq!(of(statement), [Need::Superuser(kind)], "{statement}");
        }
    }

    #[test]
    fn what_the_owner_of_a_database_makes_needs_nothing() {
        for statement in [
            "CREATE TABLE public.events (a text COLLATE public.b, language text)",
            "CREATE TYPE public.a AS ENUM ('b')",
            "CREATE TYPE public.a AS (b integer)",
            "CREATE TYPE public.a AS RANGE (subtype = integer)",
            "CREATE PUBLICATION p WITH (publish = 'insert')",
            "ALTER PUBLICATION p ADD TABLE ONLY public.events",
            "CREATE TRIGGER t BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.f()",
            "CREATE TEXT SEARCH CONFIGURATION public.a (PARSER = pg_catalog.\"default\")",
            "CREATE OPERATOR public.+ (FUNCTION = public.f, LEFTARG = integer)",
            "CREATE POLICY p ON public.a USING (true)",
            "CREATE POLICY p ON public.a TO PUBLIC USING (b = 'TO x')",
            "CREATE FUNCTION public.f(a integer) RETURNS TABLE(language c) LANGUAGE plperl AS $$LANGUAGE c$$",
            "CREATE STATISTICS public.s ON a, b FROM public.c",
            "CREATE AGGREGATE public.a(integer) (SFUNC = int4pl, STYPE = integer)",
            "SELECT pg_catalog.setval('public.a', 1, true)",
        ] {
            assert_eq!(of(statement), [], "{statement}");
        }
    }

    #[test]
    fn what_the_server_must_have_is_named() {
        let role = |name: &str| Need::Role(name.to_owned());
        assert_eq!(
            of("CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" WITH SCHEMA public"),
            [Need::Extension("uuid-ossp".to_owned())]
        );
        assert_eq!(of("CREATE EXTENSION pg_trgm"), [Need::Extension("pg_trgm".to_owned())]);
        assert_eq!(
            of("CREATE POLICY p ON public.a AS PERMISSIVE FOR SELECT TO exporter, \"Big\" USING (true)"),
            [role("Big"), role("exporter")]
        );
        assert_eq!(of("CREATE COLLATION public.c (provider = libc, locale = 'de_DE.utf8')"), [Need::Locale]);
        assert_eq!(
            of("CREATE TABLE public.a (b text COLLATE pg_catalog.\"de_DE.utf8\", c text COLLATE pg_catalog.\"C\")"),
            [Need::Collation("C".to_owned()), Need::Collation("de_DE.utf8".to_owned())]
        );
    }
}
