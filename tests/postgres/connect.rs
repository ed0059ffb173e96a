//! What keeps a task from working at all: each refusal says who refused, why, and what to do.

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use synapse_keeper::{
    contract::ErrorClass,
    postgres::{Session, lock},
};

use crate::support::{
    ClientCertificate, Database, PASSWORD, Pooler, Program, Repository, Server, german_server, server,
};
use crate::{
    backup::back_up,
    restore::{restore, swap},
};

const ANY_STEP: &str = r#"vacuum-1={"vacuum":{"mode":"Analyze"}}"#;

/// Each speaks its own language, and the reason and the advice are the same.
fn servers() -> [&'static Server; 2] {
    [server(), german_server()]
}

#[tokio::test]
async fn a_wrong_password() {
    for server in servers() {
        let database = Database::on(server, "wrong_password");
        let finished = database.task("inspect").credentials("synapse", "wrong-4711").run().await;
        let error = finished.refused("PasswordRefused", &["synapse", "[28P01]", "postgres.credentials"]);
        assert_eq!(error.class, ErrorClass::Terminal);
        assert!(!finished.printed.contains("wrong-4711"));
    }
}

#[tokio::test]
async fn a_role_that_pg_hba_refuses() {
    for server in servers() {
        let finished = Database::on(server, "pg_hba").task("inspect").credentials("unwelcome", PASSWORD).run().await;
        finished.refused("PgHbaRefused", &["pg_hba.conf", "[28000]", "host pg_hba unwelcome"]);
    }
}

/// What pg_hba.conf asks for is tried, not read in PostgreSQL's words.
#[tokio::test]
async fn a_role_that_pg_hba_lets_in_with_tls_alone() {
    let client = ClientCertificate::new("synapse");
    let authority = format!("ssl_ca_file={}", client.authority);
    for server in [Server::of_its_own(&[&authority]), Server::of_its_own_in_german(&[&authority])] {
        server.psql("postgres", "CREATE ROLE no_login; CREATE ROLE only_tls LOGIN PASSWORD 'secret-4711'");
        server.lets_in(
            "hostssl all only_tls 127.0.0.1/32 scram-sha-256\nhost all only_tls 127.0.0.1/32 reject\n\
                        hostssl all synapse 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n\
                        host all no_login 127.0.0.1/32 trust\n",
        );
        let database = Database::on(server, "only_tls");
        let plain = || database.task("inspect").with(&["--tls-mode", "disable"]);
        for password in ["secret-4711", "wrong-4711"] {
            let finished = plain().credentials("only_tls", password).run().await;
            finished.refused("PgHbaRefused", &["pg_hba.conf", "[28000]", "set postgres.tls.mode to require"]);
        }
        plain().credentials("unwelcome", PASSWORD).run().await.refused("PgHbaRefused", &["add one"]);
        let tls = || database.task("inspect").with(&["--tls-mode", "require"]);
        tls().credentials("only_tls", "secret-4711").run().await.inspection();
        tls().run().await.refused("ClientCertificateRequired", &["[28000]", "postgres.tls.clientSecret"]);
        tls().credentials("no_login", "x").run().await.refused("RoleRefused", &["[28000]", "may it log in"]);
    }
}

#[tokio::test]
async fn a_secret_without_the_key_or_with_an_empty_one() {
    let finished = Database::empty("no_key").task("inspect").without_key("password").run().await;
    finished.refused("SecretKeyMissing", &["no key `password`"]);
    let finished = Program::task("inspect").database("127.0.0.1", 1, "any").credentials("synapse", "").run().await;
    finished.refused("SecretKeyEmpty", &["`password`", "empty"]);
}

#[tokio::test]
async fn a_database_that_is_not_there() {
    for server in servers() {
        let finished = Program::task("inspect").database("127.0.0.1", server.port, "nowhere").run().await;
        finished.refused("DatabaseMissing", &["nowhere", "[3D000]", "postgres.database"]);
    }
}

#[tokio::test]
async fn a_database_that_lets_the_role_not_in() {
    for server in servers() {
        let database = Database::on(server, "closed_to_us");
        database.sql("REVOKE CONNECT ON DATABASE closed_to_us FROM PUBLIC");
        let finished = database.task("inspect").credentials("stranger", PASSWORD).run().await;
        finished.refused("ConnectDenied", &["[42501]", "GRANT CONNECT ON DATABASE \"closed_to_us\" TO \"stranger\""]);
    }
}

#[tokio::test]
async fn a_role_without_a_right_and_a_server_without_a_connection() {
    for server in servers() {
        let database = Database::on(server, "no_right");
        database.sql("CREATE TABLE foreign_table (a int)");
        database.sql("ALTER ROLE stranger CONNECTION LIMIT 0");
        let finished = database.task("inspect").credentials("stranger", PASSWORD).run().await;
        let error = finished.refused("TooManyConnections", &["[53300]"]);
        assert_eq!(error.class, ErrorClass::Transient);
        database.sql("ALTER ROLE stranger CONNECTION LIMIT -1");
    }
}

#[tokio::test]
async fn a_host_that_does_not_resolve() {
    let finished = Program::task("inspect").database("no-such-host.invalid", 5432, "any").run().await;
    let error = finished.refused("HostUnresolved", &["\"no-such-host.invalid\"", "does not resolve", "postgres.host"]);
    assert_eq!(error.class, ErrorClass::Transient, "a Service may be younger than its Job");
}

#[tokio::test]
async fn a_port_where_nobody_listens() {
    let finished = Program::task("inspect").database("127.0.0.1", 1, "any").run().await;
    let error = finished.refused("ConnectionRefused", &["127.0.0.1:1", "Connection refused"]);
    assert_eq!(error.class, ErrorClass::Transient);
}

#[tokio::test]
async fn tls_that_is_checked() {
    let database = Database::empty("tls");
    let (ca, port) = (server().ca_file(), server().port);
    let other_ca = ca.replace("ca.crt", "other-ca.crt");
    let inspect =
        |host: &str, arguments: &[&str]| Program::task("inspect").database(host, port, &database.name).with(arguments);
    let good = inspect("localhost", &["--tls-mode", "verify-full", "--ca-file", &ca]).run().await;
    assert_eq!(good.inspection().encoding, "UTF8");
    database.sessions_of_tasks_end().await;

    let other_name = inspect("127.0.0.1", &["--tls-mode", "verify-full", "--ca-file", &ca]).run().await;
    other_name.refused("TlsRefused", &["certificate is not for \"127.0.0.1\"", "verify-ca"]);
    inspect("127.0.0.1", &["--tls-mode", "verify-ca", "--ca-file", &ca]).run().await.inspection();
    let foreign = inspect("localhost", &["--tls-mode", "verify-full", "--ca-file", &other_ca]).run().await;
    foreign.refused("TlsRefused", &["did not sign the server's certificate"]);
    let unknown = inspect("localhost", &["--tls-mode", "verify-full"]).run().await;
    unknown.refused("TlsRefused", &["postgres.tls.caSecret"]);
    let missing = inspect("localhost", &["--tls-mode", "verify-full", "--ca-file", "/nowhere/ca.crt"]).run().await;
    missing.refused("SecretKeyMissing", &["postgres.tls.caSecret", "/nowhere/ca.crt"]);
}

#[tokio::test]
async fn a_standby_and_tls_that_is_not_offered() {
    let database = Database::empty("on_the_standby");
    let standby = server().standby();
    let require = Program::task("inspect").database("127.0.0.1", standby.port, &database.name);
    let finished = require.with(&["--tls-mode", "require"]).run().await;
    finished.refused("TlsNotOffered", &["does not support TLS", "postgres.tls.mode"]);

    let inspect = Program::task("inspect").database("127.0.0.1", standby.port, &database.name).run().await;
    assert!(inspect.inspection().in_recovery);
    for task in [&["preflight", "--step", ANY_STEP], &["vacuum", "--mode", "Full"]] as [&[&str]; 2] {
        let program = Program::task(task[0]).database("127.0.0.1", standby.port, &database.name);
        program.with(&task[1..]).run().await.refused("Standby", &["point postgres.host at the primary"]);
    }
}

#[tokio::test]
async fn a_pooler_that_refuses_our_settings_or_drops_them() {
    let database = Database::empty("pooled");
    for ignored in ["extra_float_digits", "extra_float_digits, options"] {
        let pooler = Pooler::start(ignored);
        for task in [&["preflight", "--step", ANY_STEP], &["vacuum", "--mode", "Full"]] as [&[&str]; 2] {
            let program = Program::task(task[0]).database("127.0.0.1", pooler.port, &database.name);
            program.with(&task[1..]).run().await.refused("Pooler", &["point postgres.host at PostgreSQL itself"]);
        }
    }
    database.sessions_of_tasks_end().await;
}

/// The check itself, with sessions that no setting has given away before.
#[tokio::test]
async fn a_lock_that_does_not_survive_its_transaction() {
    let database = Database::empty("lock_pooled");
    let pooler = Pooler::start("extra_float_digits");
    for (port, survives) in [(server().port, true), (pooler.port, false)] {
        let (mut first, mut second) = (raw(&database, port).await, raw(&database, port).await);
        let checked = lock::check_it_survives(&mut first, &mut second).await;
        assert_eq!(
            checked.as_ref().map_err(|error| error.reason.as_str()),
            if survives { Ok(&()) } else { Err("Pooler") }
        );
        let left = database.sql(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = \
             (SELECT oid FROM pg_database WHERE datname = current_database())",
        );
        assert_eq!(left, "0", "the check leaves no lock behind");
    }
}

async fn raw(database: &Database, port: u16) -> Session {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username("synapse")
        .password(PASSWORD)
        .database(&database.name)
        .extra_float_digits(None);
    let mut connection = PgConnection::connect_with(&options).await.expect("a session");
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").persistent(false).fetch_one(&mut connection).await.unwrap();
    Session { connection, pid, version: 150_000 }
}

/// Both drivers show it, and PostgreSQL lets nobody in without.
#[tokio::test]
async fn a_client_certificate() {
    let client = ClientCertificate::new("synapse");
    let server = Server::of_its_own(&[&format!("ssl_ca_file={}", client.authority)]);
    server.lets_in(
        "hostssl all synapse 127.0.0.1/32 cert\nhostssl all databases 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n\
         hostssl all stranger 127.0.0.1/32 scram-sha-256 clientcert=verify-full\nhostssl all mas 127.0.0.1/32 cert\n",
    );
    let database = Database::of_synapse_on(server, "client_certificate");
    let shown = client.arguments();
    let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
    let inspect = || database.task("inspect");
    let without = inspect().with(&["--tls-mode", "require"]).run().await;
    without.refused("ClientCertificateRequired", &["postgres.tls.clientSecret"]);
    inspect().with(&shown).run().await.inspection();
    let other_name = inspect().credentials("mas", PASSWORD).with(&shown).run().await;
    other_name.refused("ClientCertificateRefused", &["not in the name of role \"mas\""]);
    let full = inspect().credentials("stranger", PASSWORD).with(&shown).run().await;
    full.refused("PasswordRefused", &["clientcert=verify-full"]);
    let foreign = ClientCertificate::new("synapse").arguments();
    let foreign: Vec<&str> = foreign.iter().map(String::as_str).collect();
    inspect().with(&foreign).run().await.refused("SecretKeyMissing", &["postgres.tls.clientSecret"]);
    let foreign = ClientCertificate::new("synapse");
    let arguments = foreign.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    inspect().with(&arguments).run().await.refused("TlsRefused", &["ssl_ca_file"]);

    let repository = Repository::new();
    back_up(&database, &repository).with(&shown).run().await.backup();
    let uid = "certificate-1";
    restore(&database, &repository, uid).with(&["--existing", "rename"]).with(&shown).run().await.result();
    swap(&database, uid).with(&["--existing", "rename"]).with(&shown).run().await.result();
}

/// As a URL writes an address of IPv6.
#[tokio::test]
async fn an_address_in_brackets() {
    let server = Server::of_its_own(&["listen_addresses=::1"]);
    server.lets_in("host all all ::1/128 scram-sha-256\n");
    let (database, repository) = (Database::of_synapse_on(server, "in_brackets"), Repository::new());
    let task = |task: &str| Program::task(task).database("[::1]", server.port, &database.name);
    task("inspect").run().await.inspection();
    task("backup").repository(&repository).with(&["--tls-mode", "require"]).run().await.backup();
}

/// Nobody sees the end of a password: it is described.
#[tokio::test]
async fn a_password_with_something_around_it() {
    let database = Database::empty("around_password");
    let with = |password: String| database.task("inspect").credentials("synapse", &password);
    with(format!("{PASSWORD}\n\n")).run().await.inspection();
    with(format!("{PASSWORD}\r\n\r\n")).run().await.inspection();
    for (password, words) in [
        (format!("{PASSWORD} "), "It ends with white space"),
        (format!(" {PASSWORD}"), "It begins with white space"),
        (format!("{PASSWORD}\t"), "It ends with white space"),
        ("a\tb".to_owned(), "a tab"),
    ] {
        let finished = with(password.clone()).run().await;
        let error = finished.refused("PasswordRefused", &[words, "postgres.credentials"]);
        assert_eq!(error.class, ErrorClass::Terminal);
        assert!(!finished.printed.contains("ProhibitedCharacter"), "{error}");
    }
    with("a\nb".to_owned()).run().await.refused("SecretUnreadable", &["`password`", "more than one line"]);
}
