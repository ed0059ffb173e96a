use super::*;
use crate::task::dump::script::Script;

/// What a script of this text would be refused for.
fn flaws(script: &str, seen: Seen) -> Flaws {
    let mut reading = Script::new(15);
    // Wherever a piece ends.
    for piece in script.as_bytes().chunks(7) {
        reading.push(piece);
        while reading.next_act().unwrap().is_some() {}
    }
    reading.homeserver.flaws("example.org", seen)
}

fn all_tables() -> Vec<String> {
    Missing::of(&Tables::new()).unwrap().tables()
}

/// The tables of a homeserver, each with this before its name. What rows are looked at of has its columns.
fn tables(schema: &str) -> String {
    let others: String = all_tables()
        .iter()
        .filter(|table| *table != USERS)
        .map(|table| format!("CREATE TABLE {schema}{table} (a text);\n"))
        .collect();
    format!(
        "{others}CREATE TABLE {schema}applied_schema_deltas (version integer NOT NULL);\n\
         CREATE TABLE {schema}schema_version (lock character(1) DEFAULT 'X('::bpchar NOT NULL, version integer NOT NULL, upgraded boolean, \
             CONSTRAINT schema_version_lock_check CHECK ((lock = 'X'::bpchar)));\n\
         CREATE TABLE {schema}schema_compat_version (lock character(1), compat_version integer NOT NULL);\n\
         CREATE TABLE {schema}users (\"primary\" numeric(1, 2) DEFAULT pg_catalog.f(1, 2), name text, CHECK (name > 'a'), admin smallint);\n"
    )
}

const INDEX: &str = "ALTER TABLE ONLY public.users ADD CONSTRAINT users_name_key UNIQUE (name);\n";

const COPIED: &str = "\
    COPY public.schema_compat_version (lock, compat_version) FROM stdin;\nX\t93\n\\.\n\
    COPY public.schema_version (lock, version, upgraded) FROM stdin;\nX\t94\tt\n\\.\n\
    COPY public.users (\"primary\", name, admin) FROM stdin;\n1\t@a:example.org\t0\n1\t@c:example.org\t0\n2\t@b:other.org\t1\n\\.\n";

/// Of [`COPIED`].
fn found() -> Flaws {
    Flaws {
        schema: Some(SchemaVersion { version: 94, compat_version: Some(93) }),
        foreign_user: Some("@b:other.org".to_owned()),
        ..Flaws::default()
    }
}

#[test]
fn rows_are_read_in_every_form_that_pg_dump_writes() {
    let inserted = "INSERT INTO public.schema_compat_version VALUES ('X', 93);\n\
        INSERT INTO public.schema_version VALUES ('X', 94, true) ON CONFLICT DO NOTHING;\n\
        INSERT INTO public.users VALUES (-1e+3, '@a:example.org', NULL), (1, NULL, 0),\n\t(1, '@b:other.org', 0);\n";
    let by_column = "INSERT INTO public.schema_compat_version (compat_version, lock) VALUES (93, 'X');\n\
        INSERT INTO public.schema_version (lock, version) VALUES (E'X', 94);\n\
        INSERT INTO public.users (name, \"primary\") VALUES ('@b:other.org', 1);\n";
    let of_columns =
        |script: &str| script.replace(" (lock, version, upgraded)", "").replace(" (\"primary\", name, admin)", "");
    let quoted = |script: &str| script.replace("public.users", "\"public\".\"users\"").replace(" name", " \"name\"");
    let of_windows = COPIED.replace('\n', "\r\n");
    for (form, rows) in [
        ("copied", COPIED.to_owned()),
        ("without columns", of_columns(COPIED)),
        ("quoted", quoted(COPIED)),
        ("of Windows", of_windows),
        ("inserted", inserted.to_owned()),
        ("by column", by_column.to_owned()),
    ] {
        assert_eq!(flaws(&format!("{}{rows}{INDEX}", tables("public.")), Seen::All), found(), "{form}");
    }
    let elsewhere = format!("{}{COPIED}{INDEX}", tables("public.")).replace("public.", "\"Syn\".");
    assert_eq!(flaws(&elsewhere, Seen::All), found());
    // As pg_dump wrote before 2018.
    let old = format!("SET search_path = syn, pg_catalog;\n{}{COPIED}{INDEX}", tables("")).replace("public.", "");
    assert_eq!(flaws(&old, Seen::All), found());
    assert_eq!(flaws(&old.replace("SET search_path = syn, pg_catalog;", ""), Seen::All), found());
}

#[test]
fn what_lacks_something_is_known_once_all_has_passed() {
    let whole = format!("{}{COPIED}{INDEX}", tables("public."));
    let lost = whole.replace("CREATE TABLE public.state_groups (", "CREATE TABLE public.states (");
    assert_eq!(flaws(&lost, Seen::All).missing.unwrap().tables(), ["state_groups"]);
    assert!(flaws(&lost, Seen::Contents).missing.is_some());
    assert_eq!(flaws(&lost, Seen::Part), Flaws::default());
    let without_rows = format!("{}{INDEX}", tables("public."));
    assert!(flaws(&without_rows, Seen::All).has_no_version);
    for seen in [Seen::Contents, Seen::Part] {
        assert_eq!(flaws(&without_rows, seen), Flaws::default());
        assert_eq!(flaws(&whole, seen), found());
    }
    let other = format!(
        "CREATE TABLE public.users (username text);\nCOPY public.users (username) FROM stdin;\na\n\\.\n{INDEX}"
    );
    assert_eq!(flaws(&other, Seen::All), Flaws { has_no_version: true, ..Flaws::default() });
    assert!(flaws(COPIED, Seen::All).has_rows_alone);
    let bare = format!("{}{COPIED}", tables("public."));
    assert_eq!(flaws(&bare, Seen::All), Flaws { has_no_unique_index: true, ..found() });
    assert_eq!(flaws(&bare, Seen::Part), found());
}

#[test]
fn what_is_unclear_is_no_reason_to_refuse() {
    let half = || tables("public.").replace("public.state_groups ", "public.gone ");
    let second = "CREATE TABLE syn.schema_version (a int);\nCREATE TABLE syn.applied_schema_deltas (a int);\n";
    let renamed = "ALTER TABLE public.gone RENAME TO state_groups;\n";
    // It may be where the search path leads, too.
    let apart = "CREATE TABLE syn.state_groups (a int);\n";
    for (why, more) in [("two sets", second), ("renamed", renamed), ("apart", apart)] {
        assert_eq!(flaws(&format!("{}{more}{INDEX}{COPIED}", half()), Seen::All).missing, None, "{why}");
    }
    // Another program's table of this name is not where Synapse looks.
    let bridge = "CREATE TABLE bridge.schema_version (version text);\nCOPY bridge.schema_version (version) FROM stdin;\na\n\\.\n\
        CREATE TABLE bridge.users (login text);\nCOPY bridge.users (login) FROM stdin;\na\n\\.\n";
    let of_half = flaws(&format!("{}{bridge}{INDEX}{COPIED}", half()), Seen::All);
    assert_eq!(of_half, Flaws { missing: of_half.missing.clone(), ..found() });
    assert!(of_half.missing.is_some());
    let odd = COPIED.replace("X\t94", "X\tninety").replace("X\t93", "X\t\\N");
    let odd = flaws(&format!("{}{odd}{INDEX}", tables("public.")), Seen::All);
    assert_eq!((odd.has_no_version, odd.schema), (false, None));
    let elsewhere = COPIED.replace("public.", "syn.");
    assert_eq!(flaws(&format!("{}{elsewhere}{INDEX}", tables("public.")), Seen::All), Flaws::default());
    let inherited = tables("public.").replace("upgraded boolean, ", "upgraded boolean) INHERITS (public.v, ");
    assert!(!flaws(&format!("{inherited}{INDEX}"), Seen::All).has_no_version);
}
