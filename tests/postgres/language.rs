//! A server that does not speak English: what is decided rests on codes. The same on one that does.

use synapse_keeper::contract::ErrorClass;

use crate::{
    backup::back_up,
    restore::restore,
    support::{Database, Program, Repository, Server, german_server, server},
    verify::verdict,
};

fn servers() -> [&'static Server; 2] {
    [server(), german_server()]
}

fn drill(repository: &Repository, server: &Server, database: &str) -> Program {
    let (socket, port) = (server.socket(), server.port.to_string());
    let server = ["--socket", &socket, "--port", &port, "--database", database, "--snapshot", "latest"];
    Program::task("verify").repository(repository).with(&server)
}

/// Two rows that were different when they came, and are the same to a function that was changed since.
const SAME: &str = "CREATE FUNCTION same(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'; \
     CREATE TABLE twins (a int); CREATE UNIQUE INDEX twins_index ON twins (public.same(a)); INSERT INTO twins VALUES (1), (2); \
     CREATE OR REPLACE FUNCTION same(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 7'";

/// A row that a check would not let in any more.
const UNCHECKED: &str = "CREATE FUNCTION fine(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'; \
     CREATE TABLE checked (a int CONSTRAINT is_fine CHECK (public.fine(a))); INSERT INTO checked VALUES (1); \
     CREATE OR REPLACE FUNCTION fine(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT false'";

#[tokio::test]
async fn rows_that_do_not_come_back() {
    for (number, (sql, words)) in
        [(SAME, ["[23505]", "twins_index", "=(7)"]), (UNCHECKED, ["[23514]", "is_fine", "checked"])].iter().enumerate()
    {
        for server in servers() {
            let name = format!("language_{number}");
            let database = Database::of_synapse_on(server, &name);
            database.as_synapse_sql(sql);
            let repository = Repository::new();
            back_up(&database, &repository).run().await.backup();
            let drilled = drill(&repository, server, &format!("{name}_drill")).run().await;
            drilled.refused("RestoreFailed", words);
            assert!(!verdict(drilled.report()).expect("a verdict").is_whole, "{drilled:?}");
            let uid = format!("language-{number}");
            let restored = restore(&database, &repository, &uid).with(&["--existing", "rename"]).run().await;
            let error = restored.refused("RestoreFailed", words);
            assert_eq!(error.class, ErrorClass::Terminal, "another try brings the same rows");
        }
    }
}

#[tokio::test]
async fn a_right_of_a_role_that_is_gone() {
    for server in servers() {
        let (database, repository) = (Database::of_synapse_on(server, "language_right"), Repository::new());
        database.sql("CREATE ROLE of_language; GRANT SELECT ON events TO of_language");
        back_up(&database, &repository).run().await.backup();
        database.sql("REVOKE ALL ON events FROM of_language; DROP ROLE of_language");
        let restored = restore(&database, &repository, "language-right").with(&["--existing", "rename"]).run().await;
        let warnings = restored.result().warnings.join("\n");
        assert!(warnings.contains("a right was not given again") && warnings.contains("of_language"), "{warnings}");
    }
}

/// Somebody else's table, which our role may not read.
#[tokio::test]
async fn a_table_that_may_not_be_read() {
    for server in servers() {
        let (database, repository) = (Database::of_synapse_on(server, "language_policy"), Repository::new());
        database.sql(
            "CREATE TABLE behind_policy (a int); ALTER TABLE behind_policy ENABLE ROW LEVEL SECURITY; \
             GRANT SELECT ON behind_policy TO synapse",
        );
        let error = back_up(&database, &repository).run().await;
        let error = error.refused("InsufficientPrivilege", &["[42501]", "behind_policy"]);
        assert_eq!(error.class, ErrorClass::Terminal);
    }
}
