//! What a restore leaves behind that is killed between making a database and marking it.

use crate::restore::{another, backed_up, restore};

#[tokio::test]
async fn an_empty_database_of_a_killed_attempt_goes_though_it_has_no_mark() {
    let (database, repository) = backed_up("restore_unmarked").await;
    let sql = |sql: &str| database.server.psql("postgres", sql);
    let make = |attempt: u32, owner: &str| {
        let name = format!("synapse_keeper_mark0001_{attempt}");
        sql(&format!(
            "CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        ));
        another(&database, &name)
    };
    let empty = make(1, "synapse");
    // None of these is beyond doubt.
    let with_table = make(2, "synapse");
    with_table.as_synapse_sql("CREATE TABLE somebody_s (a int)");
    let of_stranger = make(3, "stranger");
    let commented = make(4, "synapse");
    sql(&format!("COMMENT ON DATABASE {} IS 'mine'", commented.name));
    let with_function = make(5, "synapse");
    with_function.as_synapse_sql("CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    let later = make(7, "synapse");
    let restored = restore(&database, &repository, "unmark0001").with(&["--existing", "rename", "--attempt", "6"]);
    restored.run().await.result();
    let left = sql("SELECT datname FROM pg_database WHERE datname LIKE 'synapse_keeper_mark0001%' ORDER BY 1");
    let names: Vec<&str> = left.lines().collect();
    assert!(!names.contains(&empty.name.as_str()), "{names:?}");
    for kept in [with_table, of_stranger, commented, with_function, later] {
        assert!(names.contains(&kept.name.as_str()), "{} of {names:?}", kept.name);
    }
    names.iter().for_each(|name| drop(sql(&format!("DROP DATABASE {name}"))));
}
