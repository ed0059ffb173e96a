use proptest::prelude::*;

use super::*;

/// What a script consists of, given in pieces of this length. `COPY` announces rows, as whoever uses it does.
fn pieces(script: &[u8], length: usize) -> Result<Vec<Piece>, Uncut> {
    let mut lexer = Lexer::default();
    let mut pieces: Vec<Piece> = Vec::new();
    for chunk in script.chunks(length) {
        lexer.push(chunk);
        while let Some(piece) = lexer.next_piece()? {
            if matches!(&piece, Piece::Statement(statement) if statement.tokens().next().as_deref() == Some("COPY")) {
                lexer.expect_rows();
            }
            match (pieces.last_mut(), piece) {
                (Some(Piece::Rows(rows)), Piece::Rows(more)) => rows.extend(more),
                (_, piece) => pieces.push(piece),
            }
        }
    }
    lexer.finish().map(|()| pieces)
}

fn cut(script: &str) -> Vec<Piece> {
    let whole = pieces(script.as_bytes(), script.len().max(1)).expect("a script");
    for length in [1, 2, 3, 7] {
        assert_eq!(pieces(script.as_bytes(), length).as_ref(), Ok(&whole), "in pieces of {length}");
    }
    whole
}

fn statements(script: &str) -> Vec<String> {
    let statement = |piece| match piece {
        Piece::Statement(statement) => statement.text,
        other => panic!("{other:?}"),
    };
    cut(script).into_iter().map(statement).collect()
}

fn tokens(statement: &str) -> Vec<String> {
    let pieces = cut(&format!("{statement};"));
    let [Piece::Statement(statement)] = &pieces[..] else { panic!("{pieces:?}") };
    statement.tokens().collect()
}

#[test]
fn a_semicolon_in_quotes_ends_nothing() {
    for one in [
        "SELECT 'a;b'",
        "SELECT 'it''s; good'",
        r"SELECT E'a\';b'",
        r"SELECT e'a\\'",
        r"SELECT 'a\'",
        r"SELECT 'E'''",
        "SELECT E'a'\n'b\\';c'",
        "SELECT \"a;\"\"b\"",
        "SELECT $$a;b$$",
        "SELECT $x1$a;$$;$x$;b$x1$",
        "SELECT $fn$ it's $fn$, 'a;b'",
        "CREATE RULE r AS ON INSERT TO a DO (DELETE FROM b; DELETE FROM c (';');)",
        "SELECT a$b$c, $1",
        "SELECT \u{fc}$b$c",
    ] {
        assert_eq!(statements(&format!("{one};\nSELECT 2;")), [one, "SELECT 2"], "{one}");
    }
}

#[test]
fn comments_stand_for_spaces_wherever_they_are() {
    assert_eq!(statements("SELECT/* ; /* ; */ ' */1 -- ;'\n+ 2;"), ["SELECT 1  + 2"]);
    assert_eq!(statements("SELECT '--', '/*', \"/*\", $$--$$, 1-1, 4/2;").len(), 1);
    let pieces = cut("-- Dumped from database version 15.4\n--\n/* a */SELECT 1;");
    assert_eq!(pieces[..2], [Piece::Comment("Dumped from database version 15.4".into()), Piece::Comment("".into())]);
    let Piece::Statement(statement) = &pieces[2] else { panic!("{pieces:?}") };
    assert_eq!((statement.line, statement.text.as_str()), (3, "SELECT 1"));
    // A slash and a star of two pairs are none.
    assert_eq!(statements("SELECT /*/ ; */1;"), ["SELECT  1"]);
    // A string goes on behind one.
    assert_eq!(statements("SELECT E'a' -- b\n'c\\';d';").len(), 1);
}

#[test]
fn tokens_are_words_names_strings_and_signs() {
    let copy = tokens("move public.\"Odd \"\"(name\" (id, \"a b\") from STDIN");
    assert_eq!(copy, ["MOVE", "PUBLIC", ".", "\"Odd \"\"(name\"", "(", "ID", ",", "\"a b\"", ")", "FROM", "STDIN"]);
    assert_eq!(tokens("SET a = 'b''c'"), ["SET", "A", "=", "'b''c'"]);
    assert_eq!(tokens("AS $_$x$y$_$ /**/ E'a'"), ["AS", "$_$x$y$_$", "E", "'a'"]);
}

#[test]
fn rows_end_where_their_line_says_and_nothing_in_them_means_anything() {
    let pieces = cut(
        "COPY t (a) FROM stdin;\n\\connect other\n'; DROP DATABASE a; --\n\\.x\n\\\\.\n\\.\n\\restrict a\nSELECT 1;\n",
    );
    let rows = b"\\connect other\n'; DROP DATABASE a; --\n\\.x\n\\\\.\n".to_vec();
    assert_eq!(
        pieces[1..4],
        [Piece::Rows(rows), Piece::RowsEnd, Piece::Command { line: 7, text: "\\restrict a".into() },]
    );
    assert!(matches!(&pieces[4], Piece::Statement(statement) if statement.line == 8), "{pieces:?}");
    assert_eq!(cut("COPY t FROM stdin;\n\\.\n")[1], Piece::RowsEnd);
    assert_eq!(cut("COPY t FROM stdin;\r\na\r\n\\.\r\n")[1], Piece::Rows(b"a\r\n".to_vec()));
    let odd = pieces_of_one("COPY t FROM stdin; SELECT 1;\n\\.\n");
    assert!(matches!(odd, Err(Uncut::Odd { line: 1, .. })), "{odd:?}");
}

fn pieces_of_one(script: &str) -> Result<Vec<Piece>, Uncut> {
    pieces(script.as_bytes(), 1)
}

#[test]
fn a_backslash_outside_of_quotes_is_a_command_wherever_it_stands() {
    for (script, command) in [
        ("\\connect synapse\nSELECT 1;", "\\connect synapse"),
        ("SELECT 1 \\gexec\n;", "\\gexec"),
        ("SELECT 'a' \\! rm -rf /\n;", "\\! rm -rf /"),
    ] {
        let pieces = cut(script);
        assert!(pieces.contains(&Piece::Command { line: 1, text: command.into() }), "{pieces:?}");
    }
}

#[test]
fn what_ends_in_the_middle_is_told() {
    for script in ["SELECT 1", "SELECT 'a;\n", "SELECT $$;", "/* ", "SELECT 1 -- a", "\\connect"] {
        assert!(matches!(pieces_of_one(script), Err(Uncut::Ends { what: "a statement", .. })), "{script}");
    }
    let rows = pieces_of_one("COPY t FROM stdin;\na\n\\");
    assert_eq!(rows, Err(Uncut::Ends { line: 3, what: "the rows of a table" }));
    for whole in ["", "SELECT 1;\n\n", "SELECT 1; -- a"] {
        assert!(pieces_of_one(whole).is_ok(), "{whole}");
    }
    assert!(matches!(pieces(b"SELECT '\xff';", 9), Err(Uncut::Odd { .. })));
}

proptest! {
    /// Of the characters that mean something, in any order and in any pieces.
    #[test]
    fn it_does_not_matter_where_a_piece_ends(
        script in r#"([';"$\\/*\-EaC\n ]|COPY a FROM stdin;\n|\n\\\.\n|\$a\$){0,60}"#,
        length in 1usize..9,
    ) {
        prop_assert_eq!(pieces(script.as_bytes(), length), pieces(script.as_bytes(), script.len().max(1)));
    }
}
