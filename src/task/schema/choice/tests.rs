use super::*;
use crate::task::schema::facts::Available;

/// An entry as `pg_restore --verbose` writes it.
fn entry(id: u32, needs: &[u32], kind: &str, name: &str, statement: &str) -> String {
    let needs: Vec<String> = needs.iter().map(u32::to_string).collect();
    let needs = if needs.is_empty() { String::new() } else { format!("-- Dependencies: {}\n", needs.join(" ")) };
    let schema =
        if matches!(kind, "EXTENSION" | "PUBLICATION" | "EVENT TRIGGER" | "CAST" | "SERVER") { "-" } else { "public" };
    format!(
        "--\n-- TOC entry {id} (class 1 OID 1)\n{needs}-- Name: {name}; Type: {kind}; Schema: {schema}; Owner: a\n--\n\n{statement};\n\n"
    )
}

fn contents(entries: &[String]) -> Contents {
    Contents::read(entries.concat().as_bytes()).unwrap()
}

/// A server with one trusted extension and one that is not.
fn server() -> Facts {
    let available = |by_the_owner| Available { by_the_owner };
    Facts {
        extensions: [("pg_trgm".to_owned(), available(true)), ("untrusted".to_owned(), available(false))].into(),
        collations: ["C".to_owned()].into(),
        roles: ["synapse".to_owned()].into(),
        ..Facts::default()
    }
}

fn whats(left_out: &[NotRestored]) -> Vec<&str> {
    left_out.iter().map(|one| one.what.as_str()).collect()
}

#[test]
fn what_only_a_superuser_can_make_is_left_out_with_what_depends_on_it() {
    let dump = contents(&[
        entry(2, &[], "EXTENSION", "untrusted", "CREATE EXTENSION IF NOT EXISTS untrusted WITH SCHEMA public"),
        entry(3, &[2], "COMMENT", "EXTENSION untrusted", "COMMENT ON EXTENSION untrusted IS 'x'"),
        entry(4, &[], "EXTENSION", "pg_trgm", "CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public"),
        entry(5, &[], "TABLE", "events", "CREATE TABLE public.events (a integer)"),
        entry(6, &[2, 5], "VIEW", "v", "CREATE VIEW public.v AS SELECT 1"),
        entry(7, &[6], "MATERIALIZED VIEW", "m", "CREATE MATERIALIZED VIEW public.m AS SELECT 1"),
        entry(8, &[7], "INDEX", "i", "CREATE INDEX i ON public.m USING btree (a)"),
        entry(9, &[5, 4], "INDEX", "t", "CREATE INDEX t ON public.events USING gin (a public.gin_trgm_ops)"),
        entry(10, &[], "PUBLICATION", "p", "CREATE PUBLICATION p WITH (publish = 'insert')"),
        entry(11, &[10], "PUBLICATION TABLES IN SCHEMA", "p public", "ALTER PUBLICATION p ADD TABLES IN SCHEMA public"),
        entry(12, &[], "PUBLICATION", "q", "CREATE PUBLICATION q WITH (publish = 'insert')"),
        entry(13, &[12, 5], "PUBLICATION TABLE", "q events", "ALTER PUBLICATION q ADD TABLE ONLY public.events"),
        entry(14, &[5], "POLICY", "events pp", "CREATE POLICY pp ON public.events TO exporter USING (true)"),
        entry(15, &[], "CAST", "CAST (text AS jsonb)", "CREATE CAST (text AS jsonb) WITH INOUT"),
        entry(16, &[], "EVENT TRIGGER", "et", "CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION public.f()"),
        entry(17, &[6], "ACL", "TABLE v", "GRANT SELECT ON TABLE public.v TO synapse"),
    ]);
    let choice = Choice::of(&dump, &server());
    assert_eq!(choice.skipped, [2, 3, 6, 7, 8, 10, 11, 14, 15, 16, 17].into());
    assert_eq!(
        whats(&choice.left_out),
        [
            "extension untrusted",
            "view public.v",
            "materialized view public.m",
            "index public.i",
            "publication p",
            "publication tables in schema public.p public",
            "policy public.events pp",
            "cast (text AS jsonb)",
            "event trigger et",
        ]
    );
    assert_eq!((choice.needed.as_slice(), choice.is_possible(&Place::Here(String::new()))), ([].as_slice(), Ok(())));
    let told = choice.told();
    assert!(
        told[0].starts_with("extension untrusted, ") && told[0].ends_with(": only a superuser can make it"),
        "{told:?}"
    );
    assert!(told.contains(&"policy public.events pp: the server has no role exporter".to_owned()), "{told:?}");

    // Nothing of this is a superuser's trouble.
    let choice = Choice::of(&dump, &Facts { is_superuser: true, ..server() });
    assert_eq!(whats(&choice.left_out), ["policy public.events pp"]);
}

#[test]
fn what_a_table_needs_is_not_left_out_but_refused() {
    let dump = contents(&[
        entry(2, &[], "EXTENSION", "untrusted", "CREATE EXTENSION IF NOT EXISTS untrusted WITH SCHEMA public"),
        entry(
            3,
            &[],
            "FUNCTION",
            "cf(integer)",
            "CREATE FUNCTION public.cf(integer) RETURNS integer\n    LANGUAGE c AS 'a'",
        ),
        entry(4, &[], "EXTENSION", "elsewhere", "CREATE EXTENSION IF NOT EXISTS elsewhere WITH SCHEMA public"),
        entry(5, &[2], "TABLE", "a", "CREATE TABLE public.a (b public.u)"),
        entry(6, &[3], "TABLE", "d", "CREATE TABLE public.d (b integer DEFAULT public.cf(1))"),
        entry(7, &[6, 2], "INDEX", "i", "CREATE INDEX i ON public.d USING x (b)"),
        entry(8, &[6, 4], "TRIGGER", "d t", "CREATE TRIGGER t BEFORE INSERT ON public.d EXECUTE FUNCTION public.x()"),
        entry(9, &[], "TABLE", "c", "CREATE TABLE public.c (b text COLLATE pg_catalog.\"de_DE\")"),
    ]);
    let choice = Choice::of(&dump, &server());
    let needed: Vec<(&str, &str)> =
        choice.needed.iter().map(|one| (one.of.what.as_str(), one.by.first().map_or("", String::as_str))).collect();
    assert_eq!(
        needed,
        [
            ("extension untrusted", "table public.a"),
            ("function public.cf(integer)", "table public.d"),
            ("extension elsewhere", "trigger public.d t"),
            ("table public.c", ""),
        ]
    );
    assert_eq!(choice.needed[0].by, ["table public.a", "index public.i"]);
    let refused = choice.is_possible(&Place::Here("synapse".to_owned())).unwrap_err();
    assert_eq!(refused.reason, "SuperuserNeeded");
    for words in [
        "extension untrusted (only a superuser can make it), which table public.a, index public.i need",
        "in database synapse: CREATE EXTENSION IF NOT EXISTS untrusted WITH SCHEMA public; CREATE FUNCTION public.cf(integer) RETURNS integer LANGUAGE c AS 'a';",
        "the server does not have its files",
        "the server has no collation de_DE",
    ] {
        assert!(refused.message.contains(words), "{words:?} is not in {refused}");
    }

    // A superuser was there before.
    let present =
        ["extension untrusted", "function public.cf(integer)", "extension elsewhere", "collation pg_catalog.de_DE"];
    let facts =
        Facts { present: present.map(str::to_owned).into(), collations: ["de_DE".to_owned()].into(), ..server() };
    let choice = Choice::of(&dump, &facts);
    assert_eq!((choice.needed.len(), choice.left_out.len(), choice.skipped), (0, 0, [2, 3, 4].into()));
}

#[test]
fn a_tablespace_is_told_and_does_not_stop_anything() {
    let dump = "-- TOC entry 5 (class 1 OID 1)\n-- Name: events; Type: TABLE; Schema: public; Owner: a; Tablespace: fast\n\
                CREATE TABLE public.events (a integer);\n";
    let choice = Choice::of(&Contents::read(dump.as_bytes()).unwrap(), &server());
    assert_eq!(choice.told(), ["table public.events: in tablespace fast, and comes back in the database's own"]);
    assert!(choice.skipped.is_empty());
}

#[test]
fn many_names_are_not_all_repeated() {
    let many: Vec<NotRestored> = (0..10).map(|number| NotRestored::new(format!("view {number}"), "x")).collect();
    let [line] = &told(&many)[..] else { panic!() };
    assert!(line.ends_with("view 7 and 2 more: x"), "{line}");
}
