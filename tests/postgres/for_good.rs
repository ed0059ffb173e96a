//! A restore beside that fails for good: another try with the same backup cannot help. It leaves nothing behind, and the same name can
//! be used again.

use synapse_keeper::contract::ErrorClass;

use crate::{
    backup::back_up,
    restore::{restore, swap},
    support::{Database, Repository},
};

/// Rows that cannot be indexed again, as a crash or a fault of an operating system leaves them; what mends them; what is said.
const ROWS: [(&str, &str, &str, [&str; 3]); 2] = [
    (
        "for_good_long",
        "CREATE TABLE odd (body text); CREATE INDEX odd_one ON odd (body); \
         UPDATE pg_index SET indisready = false WHERE indexrelid = 'odd_one'::regclass",
        "INSERT INTO odd SELECT string_agg(md5(g::text || random()::text), '') FROM generate_series(1, 110) g",
        ["CREATE INDEX", "[54000]", "Nothing was replaced"],
    ),
    (
        "for_good_twice",
        "CREATE TABLE odd (body text); CREATE UNIQUE INDEX odd_one ON odd (body); \
         UPDATE pg_index SET indisready = false WHERE indexrelid = 'odd_one'::regclass",
        "INSERT INTO odd VALUES ('once'), ('once')",
        ["(body)=(once)", "[23505]", "Nothing was replaced"],
    ),
];

#[tokio::test]
async fn it_leaves_nothing_and_the_same_name_works_with_a_backup_that_is_good() {
    for (name, table, rows, words) in ROWS {
        let (database, repository) = (Database::of_synapse(name), Repository::new());
        database.sql(table);
        database.sql(rows);
        database.sql("ALTER TABLE odd OWNER TO synapse; UPDATE pg_index SET indisready = true WHERE indexrelid = 'odd_one'::regclass");
        back_up(&database, &repository).run().await.backup();
        let uid = name.replace('_', "-");
        let again = format!("again-{uid}");
        let letters = name.replace('_', "");
        let made = format!(
            "SELECT count(*) FROM pg_database WHERE datname LIKE 'synapse\\_keeper\\_{}\\_%'",
            &letters[letters.len() - 8..]
        );
        let which = "SELECT oid FROM pg_database WHERE datname = current_database()";
        let oid = database.sql(which);
        // Two objects of one name: the first was deleted and made again.
        for uid in [&uid, &again] {
            let failed = restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await;
            let error = failed.refused("RestoreFailed", &words);
            assert_eq!(error.class, ErrorClass::Terminal, "it is not filled three times over");
            assert_eq!(database.sql(&made), "0", "{name}");
            let inspected = database.task("inspect").run().await;
            let left = &inspected.inspection().left_databases;
            assert!(!left.iter().any(|left| left.restore.as_ref() == Some(uid)), "{left:?}");
        }
        database.sql("TRUNCATE odd");
        back_up(&database, &repository).with(&["--run", "2"]).run().await.backup();
        restore(&database, &repository, &again).with(&["--existing", "rename"]).run().await.result();
        assert_eq!(database.sql(&made), "1", "{name}");
        swap(&database, &again).with(&["--existing", "rename"]).run().await.result();
        assert_ne!(database.sql(which), oid, "{name}");
        assert_eq!(database.sql("SELECT count(*) FROM odd"), "0");
    }
}
