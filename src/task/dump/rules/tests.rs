use super::*;
use crate::task::sql::lexer::{Lexer, Piece};

fn verdict(statement: &str) -> Result<Verdict, String> {
    let mut lexer = Lexer::default();
    lexer.push(statement.as_bytes());
    lexer.push(b";");
    match lexer.next_piece() {
        Ok(Some(Piece::Statement(statement))) => judge(&statement),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_pg_dump_writes_for_synapse_is_run() {
    for statement in [
        "SELECT pg_catalog.set_config('search_path', '', false)",
        "SELECT pg_catalog.setval('public.events_stream_seq', 100, true)",
        "SELECT pg_catalog.setval('public.a', -1, false)",
        "SET search_path = public, pg_catalog",
        "SET check_function_bodies = false",
        "SET row_security = off",
        "CREATE TABLE public.events (a text NOT NULL)",
        "CREATE UNLOGGED TABLE public.a (b int)",
        "CREATE UNIQUE INDEX a ON public.b USING btree (c)",
        "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DROP DATABASE a; END $$",
        "CREATE TRIGGER a BEFORE INSERT ON public.b FOR EACH ROW EXECUTE FUNCTION public.f()",
        "ALTER TABLE ONLY public.events ADD CONSTRAINT a PRIMARY KEY (b)",
        "ALTER TABLE public.a ALTER COLUMN b ADD GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME public.c)",
        "ALTER SEQUENCE public.a OWNED BY public.b.c",
        "ALTER TABLE ONLY public.a REPLICA IDENTITY USING INDEX b",
    ] {
        assert_eq!(verdict(statement), Ok(Verdict::Run), "{statement}");
    }
    for statement in [
        "INSERT INTO public.a VALUES (1, -2.5, 1e+30, 'x', NULL, true, B'01', '\\x00')",
        "INSERT INTO public.a (b, \"C\") OVERRIDING SYSTEM VALUE VALUES (1, 'a'), (2, 'b') ON CONFLICT DO NOTHING",
        "INSERT INTO public.a DEFAULT VALUES",
    ] {
        assert_eq!(verdict(statement), Ok(Verdict::Values("public.a".into())), "{statement}");
    }
    assert_eq!(verdict("COPY public.events (a, \"B\") FROM stdin"), Ok(Verdict::Rows("public.events".into())));
    assert_eq!(verdict("copy public.\"Odd\" from stdin"), Ok(Verdict::Rows("public.\"Odd\"".into())));
    assert_eq!(verdict("COPY events (a) FROM stdin"), Ok(Verdict::Rows("events".into())));
}

#[test]
fn what_is_another_server_s_is_left_out() {
    for (statement, kind) in [
        ("ALTER TABLE public.events OWNER TO somebody", "owners"),
        ("ALTER FUNCTION public.f(a text, b int) OWNER TO \"Some body\"", "owners"),
        ("SET SESSION AUTHORIZATION 'somebody'", "owners"),
        ("GRANT SELECT ON TABLE public.events TO grafana", "rights"),
        ("REVOKE ALL ON SCHEMA public FROM PUBLIC", "rights"),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA public GRANT SELECT ON TABLES TO b", "rights"),
        ("CREATE EXTENSION IF NOT EXISTS pg_stat_statements WITH SCHEMA public", "extensions"),
        ("COMMENT ON EXTENSION plpgsql IS 'a'", "comments"),
        ("COMMENT ON DATABASE synapse IS 'a'", "comments"),
        ("CREATE PUBLICATION p FOR ALL TABLES", "publications"),
        ("CREATE PUBLICATION p FOR TABLE public.events", "publications"),
        ("CREATE EVENT TRIGGER a ON ddl_command_start EXECUTE FUNCTION f()", "event triggers"),
        ("ALTER EVENT TRIGGER a OWNER TO b", "event triggers"),
        ("CREATE SUBSCRIPTION s CONNECTION 'a' PUBLICATION b", "subscriptions"),
        ("CREATE FOREIGN DATA WRAPPER w", "foreign-data wrappers"),
        ("CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw", "foreign servers"),
        ("CREATE USER MAPPING FOR synapse SERVER s", "user mappings"),
        ("CREATE FOREIGN TABLE public.a (b integer) SERVER s", "foreign tables"),
        ("CREATE LANGUAGE plpython3u", "procedural languages"),
        ("CREATE FUNCTION public.a() RETURNS integer LANGUAGE c AS 'a', 'b'", "functions in untrusted languages"),
        ("SELECT pg_catalog.lo_create('30210')", "large objects"),
        ("SELECT pg_catalog.lo_export(1, '/tmp/a')", "large objects"),
        ("SELECT pg_catalog.lowrite(0, '\\x00')", "large objects"),
        ("ALTER LARGE OBJECT 30210 OWNER TO a", "large objects"),
        ("SECURITY LABEL FOR a ON TABLE public.b IS 'c'", "security labels"),
    ] {
        assert_eq!(verdict(statement), Ok(Verdict::LeaveOut(kind)), "{statement}");
    }
    assert_eq!(verdict("REFRESH MATERIALIZED VIEW public.\"A\""), Ok(Verdict::Refresh("public.\"A\"".into())));
    for statement in [
        "",
        "BEGIN",
        "COMMIT",
        "SET statement_timeout = 0",
        "SET transaction_timeout = 0",
        "SET client_encoding = 'UTF8'",
        "SET standard_conforming_strings = on",
        "SET default_tablespace = fast",
        "DROP TABLE public.events",
        "DROP INDEX IF EXISTS public.a",
        "ALTER TABLE IF EXISTS ONLY public.events DROP CONSTRAINT a",
        "CREATE SCHEMA public",
    ] {
        assert_eq!(verdict(statement), Ok(Verdict::PassOver), "{statement}");
    }
}

#[test]
fn what_reaches_beyond_the_new_database_is_refused() {
    for statement in [
        "CREATE DATABASE synapse WITH TEMPLATE = template0",
        "DROP DATABASE IF EXISTS synapse",
        "drop/**/database synapse",
        "ALTER DATABASE synapse OWNER TO synapse",
        "ALTER DATABASE synapse SET work_mem TO '1GB'",
        "CREATE ROLE synapse",
        "ALTER USER synapse SUPERUSER",
        "DROP ROLE IF EXISTS synapse",
        "CREATE TABLESPACE a LOCATION '/b'",
        "ALTER SYSTEM SET fsync = off",
        "CREATE USER a",
        "CREATE GROUP a",
    ] {
        assert_eq!(verdict(statement), Err(BEYOND_THE_DATABASE.to_owned()), "{statement}");
    }
    for statement in [
        "COPY public.a TO '/tmp/a'",
        "COPY public.a FROM '/etc/passwd'",
        "COPY public.a FROM PROGRAM 'id'",
        "COPY (SELECT 1) TO PROGRAM 'id'",
        "COPY public.a (b) FROM stdin WITH (FORMAT csv)",
        "COPY public.a (b, c() ) FROM stdin",
        "INSERT INTO public.a SELECT lo_export(1, '/tmp/a')",
        "INSERT INTO public.a VALUES (lo_export(1, '/tmp/a'))",
        "INSERT INTO public.a (b) VALUES (1) RETURNING pg_sleep(1)",
        "SELECT dblink_exec('a', 'b')",
        "SELECT pg_catalog.set_config('session_replication_role', 'replica', false)",
        "SELECT pg_catalog.setval('a', (SELECT pg_sleep(1)::int))",
        "SELECT pg_catalog.setval('a', 1), pg_sleep(1)",
        "SELECT 1",
        "SET ROLE postgres",
        "SET LOCAL search_path = a",
        "SET session_replication_role = replica",
        "SET standard_conforming_strings = off",
        "SET client_encoding = 'SJIS'",
        "DO $$ BEGIN END $$",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY public.a",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "CREATE RULE a AS ON INSERT TO b DO NOTHING",
        "LOAD 'a'",
        "ROLLBACK",
        "TRUNCATE public.events",
        "UPDATE public.users SET admin = 1",
        "VACUUM",
    ] {
        assert!(verdict(statement).is_err(), "{statement}: {:?}", verdict(statement));
    }
}

#[test]
fn only_the_lines_that_keep_psql_in_check_may_be_there() {
    assert_eq!(judge_command("\\restrict abc"), Ok(()));
    assert_eq!(judge_command("\\unrestrict abc"), Ok(()));
    for command in
        ["\\connect synapse", "\\c", "\\! id", "\\i /etc/passwd", "\\copy a from b", "\\gexec", "\\restrictive"]
    {
        assert!(judge_command(command).is_err(), "{command}");
    }
}
