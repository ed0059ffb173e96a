//! Both databases come back and take their places together, on one server and on two.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::*;
use crate::{
    backup::back_up,
    support::{Finished, PASSWORD, Program, eventually, execute},
};

impl Homeserver {
    /// A backup of both; since then each has got a table that is not in it.
    pub(super) async fn backed_up(self) -> Self {
        self.back_up().run().await.backup();
        for database in [&self.synapse, &self.mas] {
            database.sql("CREATE TABLE only_in_the_old_one (a int)");
        }
        self.mas.sql("DELETE FROM compat_access_tokens");
        self
    }

    fn restore_alone(&self, uid: &str) -> Program {
        let of = ["--operation", uid, "--restore", uid, "--existing", "rename", "--free-space", "10Gi"];
        self.synapse.task("restore-database").of_server(&self.repository).administrator("databases").with(&of)
    }

    pub(super) fn restore(&self, uid: &str) -> Program {
        self.restore_alone(uid).authentication_service(&self.mas).authentication_administrator("databases")
    }

    pub(super) fn swap_alone(&self, uid: &str) -> Program {
        let of = ["--operation", uid, "--existing", "rename"];
        self.synapse.task("swap-database").administrator("databases").with(&of)
    }

    pub(super) fn swap(&self, uid: &str) -> Program {
        self.swap_alone(uid).authentication_service(&self.mas).authentication_administrator("databases")
    }

    /// Which of the two are the old ones: Synapse's, the service's.
    pub(super) fn are_old(&self) -> (bool, bool) {
        let is_old = |database: &Database| {
            database.sql("SELECT count(*) FROM pg_class WHERE relname = 'only_in_the_old_one'") == "1"
        };
        (is_old(&self.synapse), is_old(&self.mas))
    }
}

fn kept(finished: &Finished) -> (Option<String>, Option<String>) {
    let restored = finished.result().restored.clone().expect("a swap");
    (restored.kept, restored.authentication_service.expect("both").kept)
}

#[tokio::test]
async fn both_come_back_and_take_their_places_together() {
    let homeservers = [Homeserver::on_one_server("mas_back_one"), Homeserver::on_two_servers("mas_back_two")];
    for (homeserver, uid) in homeservers.into_iter().zip(["mas-one-001", "mas-two-001"]) {
        let homeserver = homeserver.backed_up().await;
        let Homeserver { synapse, mas, .. } = &homeserver;
        mas.server.psql("postgres", &format!("ALTER DATABASE {} SET work_mem = '7MB'", mas.name));
        let restored = homeserver.restore(uid).run().await;
        let summary = &restored.result().summary;
        let words = ["1379 rows of 12 tables of the Matrix Authentication Service into synapse_keeper_", &mas.name];
        assert!(words.iter().all(|words| summary.contains(words)), "{summary}");
        assert_eq!(homeserver.are_old(), (true, true), "nothing is replaced before the swap");
        let again = homeserver.restore(uid).with(&["--attempt", "2"]).run().await;
        assert!(again.result().summary.contains("an earlier attempt"), "{again:?}");
        // Should the run fail now, both are named.
        let names_both = |finished: &Finished| {
            let name = finished.result().beside.as_ref().and_then(|left| left.authentication_service.clone());
            let exists =
                format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", name.expect("both are named"));
            assert_eq!(mas.server.psql("postgres", &exists).trim(), "1", "{finished:?}");
        };
        names_both(&restored);
        names_both(&again);

        let swapped = homeserver.swap(uid).run().await;
        assert_eq!(homeserver.are_old(), (false, false));
        let (old_synapse, old_mas) = kept(&swapped);
        let summary = &swapped.result().summary;
        for (old, name) in [(&old_synapse, &synapse.name), (&old_mas, &mas.name)] {
            let old = old.as_ref().expect("an old database");
            assert!(old.starts_with(&format!("{name}_before_")) && summary.contains(old.as_str()), "{old}: {summary}");
        }
        assert_eq!(mas.sql("SELECT count(*) FROM compat_access_tokens"), "200");
        assert_eq!(mas.sql("SELECT count(*) FROM queue_leader"), "0");
        assert_eq!(mas.sql("SHOW work_mem"), "7MB");
        let locale = "SELECT datcollate, pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()";
        assert_eq!(mas.sql(locale), format!("{AUTHENTICATION_LOCALE}|mas"));
        let old = Database { name: old_mas.unwrap(), server: mas.server };
        assert_eq!(old.sql("SELECT count(*) FROM compat_access_tokens"), "0");

        // The Pod died before it could say so.
        let again = homeserver.swap(uid).with(&["--attempt", "2"]).run().await;
        assert_eq!(again.result().restored, swapped.result().restored);
        let back = homeserver.swap(uid).with(&["--back", "--attempt", "3"]).run().await;
        assert!(back.result().summary.contains("is the old database again"), "{back:?}");
        names_both(&back);
        assert_eq!(homeserver.are_old(), (true, true));
        homeserver.swap(uid).with(&["--back", "--attempt", "4"]).run().await.result();
        homeserver.swap(uid).with(&["--attempt", "5"]).run().await.result();
        assert_eq!(homeserver.are_old(), (false, false), "a person who has mended what kept Synapse from starting");
    }
}

#[tokio::test]
async fn one_of_the_two_alone_is_refused() {
    let homeserver = Homeserver::on_one_server("mas_alone").backed_up().await;
    let uid = "alone-00001";
    homeserver
        .restore_alone(uid)
        .run()
        .await
        .refused("AuthenticationNotNamed", &["Set spec.matrixAuthenticationService.postgres of the Synapse object"]);
    homeserver.restore(uid).run().await.result();
    homeserver.swap_alone(uid).run().await.refused("AuthenticationNotNamed", &[]);
    assert_eq!(homeserver.are_old(), (true, true));

    let without = Homeserver::on_one_server("mas_without");
    back_up(&without.synapse, &without.repository).run().await.backup();
    without
        .restore("without-001")
        .run()
        .await
        .refused("AuthenticationNotInBackup", &["Choose a backup", "authenticationApartSeconds", "by hand"]);
}

#[tokio::test]
async fn on_one_server_one_role_has_to_swap_both() {
    let homeserver = Homeserver::on_one_server("mas_role").backed_up().await;
    let role = format!("CREATE ROLE of_synapse_alone LOGIN CREATEDB PASSWORD '{PASSWORD}' IN ROLE synapse");
    homeserver.synapse.sql(&role);
    let of = ["--operation", "role-000001", "--existing", "rename", "--free-space", "10Gi"];
    let task = homeserver.synapse.task("restore-database").of_server(&homeserver.repository).with(&of);
    // Whoever may do it for the service alone is not asked.
    let task = task.authentication_service(&homeserver.mas).authentication_administrator("databases");
    let refused = task.administrator("of_synapse_alone").run().await;
    let words = ["GRANT \"mas\" TO \"of_synapse_alone\"", "on the same server: one role swaps both"];
    let error = refused.refused("CannotCreateDatabases", &words);
    assert!(!error.message.contains("spec.matrixAuthenticationService"), "{error}");
}

#[tokio::test]
async fn a_service_that_somebody_uses_is_not_touched_and_a_fresh_one_is() {
    let homeserver = Homeserver::on_two_servers("mas_fresh").backed_up().await;
    let Homeserver { synapse, mas, .. } = &homeserver;
    // Freshly installed, both of them.
    synapse.sql("SET session_replication_role = replica; TRUNCATE users, events CASCADE");
    let restore = |uid: &str| {
        let of = ["--operation", uid, "--free-space", "10Gi"];
        let task =
            synapse.task("restore-database").of_server(&homeserver.repository).administrator("databases").with(&of);
        task.authentication_service(mas).authentication_administrator("databases").run()
    };
    let words =
        ["spec.matrixAuthenticationService", "mas_fresh_mas is in use: it has 200 users", "Nothing was changed"];
    restore("used-000001").await.refused("DatabaseInUse", &words);
    mas.sql("TRUNCATE users CASCADE");
    restore("fresh-00001").await.result();
}

#[tokio::test]
async fn what_does_not_fit_the_service_is_found_out_before_anything_is_made() {
    let homeserver = Homeserver::on_two_servers("mas_unfit").backed_up().await;
    let Homeserver { synapse, mas, .. } = &homeserver;
    let field = "spec.matrixAuthenticationService";
    let uid = "unfit-00001";
    let databases = || {
        let list =
            "SELECT string_agg(datname, ' ' ORDER BY 1) FROM pg_database WHERE datname LIKE 'synapse_keeper_it00001%'";
        (synapse.server.psql("postgres", list), mas.server.psql("postgres", list))
    };
    let before = databases();
    let as_role = |role| homeserver.restore_alone(uid).authentication_service(mas).authentication_administrator(role);
    as_role("mas").run().await.refused("CannotCreateDatabases", &[field, "ALTER ROLE \"mas\" CREATEDB"]);
    let mut superuser = homeserver.superuser_of(mas).await;
    homeserver.restore(uid).run().await.refused("CannotEndSessions", &[field, "application exporter"]);
    execute(&mut superuser, "SELECT 1").await;
    drop(superuser);
    mas.sql("DELETE FROM _sqlx_migrations WHERE version > 20250000000000");
    homeserver.restore(uid).run().await.refused("SchemaTooNew", &[field, "20260121121140", "20221018142001"]);
    mas.sql("DROP TABLE _sqlx_migrations");
    let preflight = json!({"restore": {
        "repositoryDir": homeserver.repository.destination()["repositoryDir"], "serverName": "example.org", "snapshot": "latest",
        "restore": "a/b", "existing": "Rename", "freeSpace": "10Gi",
    }});
    let step = format!("database={preflight}");
    let told = synapse.task("preflight").repository_programs(&homeserver.repository).with(&["--step", &step]);
    told.credentials("databases", PASSWORD).run().await.refused("AuthenticationNotNamed", &[]);
    assert_eq!(databases(), before);
}

impl Homeserver {
    /// A session that a swap may not end.
    pub(super) async fn superuser_of(&self, database: &Database) -> sqlx::PgConnection {
        database.server.psql("postgres", &format!("ALTER ROLE postgres PASSWORD '{PASSWORD}'"));
        database.session("postgres", "exporter").await
    }
}

/// Synapse's names cannot change while the service's have.
#[tokio::test]
async fn a_swap_that_fails_between_two_servers_is_taken_back_by_itself() {
    let homeserver = Homeserver::on_two_servers("mas_between").backed_up().await;
    let uid = "between-001";
    homeserver.restore(uid).run().await.result();
    let superuser = homeserver.superuser_of(&homeserver.synapse).await;
    let until = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(8)).to_string();
    let failed = homeserver.swap(uid).with(&["--until", &until]).run().await;
    let error = failed.report().error.clone().expect("it cannot be done");
    assert!(
        error.message.contains("The database of the Matrix Authentication Service has its old name again"),
        "{error}"
    );
    assert_eq!(homeserver.are_old(), (true, true));

    // Told to stop in between.
    let running = homeserver.swap(uid).with(&["--attempt", "2"]).start();
    eventually("the service's names have changed", || async { !homeserver.are_old().1 }).await;
    running.signal(Signal::TERM);
    running.finish().await.refused("Stopped", &["has its old name again"]);
    assert_eq!(homeserver.are_old(), (true, true));
    drop(superuser);

    // Killed in between: the next attempt finishes it, and so would taking it back.
    for (attempt, next) in [("3", &["--back", "--attempt", "4"][..]), ("5", &["--attempt", "6"])] {
        let superuser = homeserver.superuser_of(&homeserver.synapse).await;
        let mut running = homeserver.swap(uid).with(&["--attempt", attempt]).start();
        eventually("the service's names have changed", || async { !homeserver.are_old().1 }).await;
        running.child.kill().await.unwrap();
        assert_eq!(homeserver.are_old(), (true, false));
        drop(superuser);
        homeserver.swap(uid).with(next).run().await.result();
        let is_old = next[0] == "--back";
        assert_eq!(homeserver.are_old(), (is_old, is_old), "attempt {attempt}");
    }
}

#[tokio::test]
async fn killed_at_any_moment_on_two_servers_it_ends_with_both_or_with_neither() {
    let homeserver = Homeserver::on_two_servers("mas_killed").backed_up().await;
    let uid = "killed-mas1";
    homeserver.restore(uid).run().await.result();
    let old = (homeserver.synapse.checksum("events"), homeserver.mas.checksum("user_sessions"));
    let (mut attempt, mut later, mut cut_off) = (0, Duration::from_millis(200), 0);
    for round in 0..24 {
        let (is_old, both) = homeserver.are_old();
        assert_eq!(is_old, both, "round {round}");
        let back: &[&str] = if is_old { &[] } else { &["--back"] };
        let swap = |attempt: i32| homeserver.swap(uid).with(back).with(&["--attempt", &attempt.to_string()]);
        let mut running = swap(attempt + 1).start();
        tokio::time::sleep(later).await;
        running.child.kill().await.unwrap();
        for database in [&homeserver.mas, &homeserver.synapse] {
            database.server.ends_sessions_of(uid).await;
        }
        let (synapse, mas) = homeserver.are_old();
        cut_off += i32::from(synapse != mas);
        assert!(mas != is_old || synapse == is_old, "round {round}: Synapse's names change last");
        swap(attempt + 2).run().await.result();
        assert_eq!(homeserver.are_old(), (!is_old, !is_old), "round {round}: the next attempt comes to the end");
        attempt += 2;
        later = if synapse == is_old { later + Duration::from_millis(40) } else { Duration::from_millis(200) };
    }
    println!("cut off between the servers {cut_off} times of 24");
    if !homeserver.are_old().0 {
        homeserver.swap(uid).with(&["--back", "--attempt", "99"]).run().await.result();
    }
    assert_eq!((homeserver.synapse.checksum("events"), homeserver.mas.checksum("user_sessions")), old, "unharmed");
}
