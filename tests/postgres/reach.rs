//! How PostgreSQL's programs get to the database: whatever its name looks like, and whatever lies in a home.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::{
    backup::{back_up, content},
    support::{Database, PASSWORD, Repository, server},
};

/// Names that libpq would read as more where they stand among a program's arguments, or that SQL would.
const NAMES: [&str; 5] =
    ["dbname=postgres", "postgresql://127.0.0.1/postgres", "host=nowhere.invalid", "sp ace ", "q'uo\"te\\"];

#[tokio::test]
async fn a_database_s_name_is_only_a_name() {
    let (source, repository) = (Database::of_synapse("reach_source"), Repository::new());
    source.sql("TRUNCATE e2e_one_time_keys_json");
    back_up(&source, &repository).run().await.backup();
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    let elsewhere = server().psql("postgres", tables);
    for (number, name) in NAMES.iter().enumerate() {
        let database = Database::empty(name);
        let arguments = ["--operation", &format!("reach-{number:06}"), "--restore", "i", "--method", "in-place"];
        let restored = database.task("restore-database").of_server(&repository).with(&arguments);
        restored.with(&["--free-space", "10Gi"]).run().await.result();
        assert_eq!(database.checksum("events"), source.checksum("events"), "{name}");
        let again = Repository::new();
        back_up(&database, &again).run().await.backup();
        database.task("vacuum").with(&["--mode", "Analyze"]).run().await.result();
    }
    assert_eq!(server().psql("postgres", tables), elsewhere, "nothing went elsewhere");
}

/// Of whoever starts a task by hand: a leftover certificate, a key that nobody may read, and variables of libpq.
#[tokio::test]
async fn nothing_of_a_home_or_of_the_environment_counts() {
    let (database, repository) = (Database::of_synapse("reach_home"), Repository::new());
    let before = content(&database);
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".postgresql");
    fs::create_dir(&folder).unwrap();
    for file in ["postgresql.crt", "postgresql.key", "root.crt", "root.crl"] {
        fs::write(folder.join(file), "nothing that OpenSSL could read").unwrap();
        fs::set_permissions(folder.join(file), fs::Permissions::from_mode(0o000)).unwrap();
    }
    fs::write(home.path().join(".pgpass"), "*:*:*:*:wrong\n").unwrap();
    fs::set_permissions(home.path().join(".pgpass"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(home.path().join(".psqlrc"), "\\quit\n").unwrap();
    fs::write(home.path().join(".pg_service.conf"), "[other]\nhost=nowhere.invalid\n").unwrap();
    let home_path = home.path().display().to_string();
    let leftover = folder.join("root.crt").display().to_string();
    let ca = server().ca_file();
    for tls in [&["--tls-mode", "require"][..], &["--tls-mode", "verify-ca", "--ca-file", &ca]] {
        let mut task = back_up(&database, &repository).no_superuser().with(tls).variable("HOME", &home_path);
        for (name, value) in [
            ("PGSERVICE", "other"),
            ("PGHOSTADDR", "192.0.2.1"),
            ("PGSSLCERT", &leftover),
            ("PGSSLROOTCERT", &leftover),
            ("PGOPTIONS", "-c default_transaction_read_only=nonsense"),
            ("PGTARGETSESSIONATTRS", "standby"),
            ("PGDATESTYLE", "nonsense"),
            ("LC_ALL", "de_DE.UTF-8"),
        ] {
            task = task.variable(name, value);
        }
        task.run().await.backup();
    }
    assert_eq!(content(&database), before);
}

/// Characters that mean something in a password file.
#[tokio::test]
async fn a_password_of_odd_characters() {
    let (database, repository) = (Database::of_synapse("reach_password"), Repository::new());
    let odd = format!("#{PASSWORD}:*\\: 'ü\"");
    let quoted = odd.replace('\'', "''");
    database.sql(&format!("CREATE ROLE reach_password LOGIN PASSWORD '{quoted}'; GRANT synapse TO reach_password"));
    back_up(&database, &repository).credentials("reach_password", &odd).run().await.backup();
}
