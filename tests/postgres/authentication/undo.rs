//! A swap of which nobody knows what it has done is taken back by a task that finds out; and each says what it has left.

use synapse_keeper::contract::Leaves;

use super::*;
use crate::support::{Finished, Program, Way, Wire, eventually, execute};

impl Homeserver {
    fn undo(&self, uid: &str, attempt: i32) -> Program {
        self.swap(uid).with(&["--back", "--attempt", &attempt.to_string()])
    }

    /// The server of one of the two databases is reached by a wire.
    fn swap_through(&self, wire: &Wire, through: &Database, uid: &str) -> Program {
        let of = ["--operation", uid, "--existing", "rename"];
        let port = |database: &Database| if database.name == through.name { wire.port } else { database.server.port };
        let swap = Program::task("swap-database").database("127.0.0.1", port(&self.synapse), &self.synapse.name);
        let secret = swap.mounted("mas", "mas", crate::support::PASSWORD);
        let service = ["--mas-host", "127.0.0.1", "--mas-database", &self.mas.name, "--mas-credentials-dir", &secret];
        let swap = swap.with(&service).with(&["--mas-port", &port(&self.mas).to_string()]);
        swap.administrator("databases").authentication_administrator("databases").with(&of)
    }

    /// Has `swap` killed when the service's names have changed and Synapse's cannot.
    async fn kill_in_between(&self, swap: Program, is_old: bool) {
        let superuser = self.superuser_of(&self.synapse).await;
        // Asked from outside: a name that is about to change has nobody behind it.
        let Database { name, server } = &self.mas;
        let behind_it = || server.psql("postgres", &format!("SELECT oid FROM pg_database WHERE datname = '{name}'"));
        let before = behind_it();
        let mut running = swap.start();
        let has_changed = || async { behind_it() != before };
        eventually("the service's names have changed", has_changed).await;
        running.child.kill().await.expect("it runs");
        assert_eq!(self.are_old(), (is_old, !is_old));
        // PostgreSQL may go on with what it was told: who comes next ends that first.
        drop(superuser);
    }

    /// Has `swap` fail for Synapse's names.
    async fn fail(&self, swap: Program) -> Finished {
        let mut superuser = self.superuser_of(&self.synapse).await;
        let until = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(8)).to_string();
        let failed = swap.with(&["--until", &until]).run().await;
        execute(&mut superuser, "SELECT 1").await;
        failed
    }
}

fn leaves(finished: &Finished) -> Option<Leaves> {
    let report = finished.report();
    assert!(report.error.is_some(), "{report:?}");
    report.leaves
}

fn says_that_nothing_was_swapped(finished: &Finished) {
    let summary = &finished.result().summary;
    assert!(summary.contains("was not swapped: there was nothing to roll back"), "{summary}");
}

#[tokio::test]
async fn whatever_a_killed_swap_has_done_its_undo_brings_both_back() {
    let homeserver = Homeserver::on_two_servers("mas_undo").backed_up().await;
    let uid = "undo-mas-01";
    homeserver.restore(uid).run().await.result();
    // Nothing.
    says_that_nothing_was_swapped(&homeserver.undo(uid, 1).run().await);
    assert_eq!(homeserver.are_old(), (true, true));

    // One of the two.
    homeserver.kill_in_between(homeserver.swap(uid).with(&["--attempt", "2"]), true).await;
    let back = homeserver.undo(uid, 3).run().await;
    assert!(back.result().summary.contains("is the old database again"), "{back:?}");
    assert_eq!(homeserver.are_old(), (true, true));

    // Both, and the report was lost. The undo is killed in between as well.
    homeserver.swap(uid).with(&["--attempt", "4"]).run().await.result();
    homeserver.kill_in_between(homeserver.undo(uid, 5), false).await;
    homeserver.undo(uid, 6).run().await.result();
    assert_eq!(homeserver.are_old(), (true, true));
    homeserver.undo(uid, 7).run().await.result();
    assert_eq!(homeserver.are_old(), (true, true), "twice is as good as once");
}

/// The service's names have changed, and nobody knows of Synapse's.
#[tokio::test]
async fn a_server_that_vanishes_between_the_two_swaps_leaves_a_doubt_that_the_undo_ends() {
    let homeserver = Homeserver::on_two_servers("mas_gone").backed_up().await;
    let uid = "gone-mas-001";
    homeserver.restore(uid).run().await.result();
    for vanishes in [&homeserver.synapse, &homeserver.mas] {
        let superuser = homeserver.superuser_of(&homeserver.synapse).await;
        let wire = Wire::to_port(vanishes.server.port).await;
        let running = homeserver.swap_through(&wire, vanishes, uid).start();
        let has_changed = || async { !homeserver.are_old().1 };
        eventually("the service's names have changed", has_changed).await;
        wire.becomes(Way::Stalled);
        let finished = running.finish().await;
        finished.refused("ConnectionLost", &["no sign of life", "could not be looked at or mended"]);
        assert_eq!((leaves(&finished), homeserver.are_old()), (None, (true, false)), "{finished:?}");
        wire.becomes(Way::Cut);
        drop(superuser);
        homeserver.undo(uid, 2).run().await.result();
        assert_eq!(homeserver.are_old(), (true, true));
    }
}

#[tokio::test]
async fn what_fails_says_whether_the_two_are_in_step() {
    let homeserver = Homeserver::on_two_servers("mas_leaves").backed_up().await;
    let uid = "leaves-mas1";
    homeserver.restore(uid).run().await.result();
    let nobody = homeserver.swap_alone(uid).authentication_service(&homeserver.mas);
    let nobody = nobody.authentication_administrator("nobody").run().await;
    assert_eq!(leaves(&nobody), Some(Leaves::AsItWas), "it has not got to anything");
    assert_eq!(leaves(&homeserver.fail(homeserver.swap(uid)).await), Some(Leaves::InStep), "it took its half back");
    assert_eq!(homeserver.are_old(), (true, true));

    homeserver.swap(uid).run().await.result();
    let undo = |attempt| homeserver.undo(uid, attempt);
    let half = homeserver.fail(undo(2)).await;
    assert_eq!((leaves(&half), homeserver.are_old()), (None, (false, true)), "{half:?}");
    undo(3).run().await.result();
    assert_eq!(homeserver.are_old(), (true, true));

    homeserver.swap(uid).with(&["--attempt", "4"]).run().await.result();
    homeserver.synapse.as_synapse_sql("SELECT nextval('events_stream_seq')");
    let used = undo(5).run().await;
    used.refused("RestoredDatabaseUsed", &["clients hold tokens"]);
    assert_eq!((leaves(&used), homeserver.are_old()), (Some(Leaves::InStep), (false, false)));
}

#[tokio::test]
async fn a_new_restore_mends_two_that_are_out_of_step() {
    let homeserver = Homeserver::on_two_servers("mas_mends").backed_up().await;
    homeserver.restore("mends-mas-1").run().await.result();
    homeserver.kill_in_between(homeserver.swap("mends-mas-1"), true).await;
    homeserver.restore("mends-mas-2").run().await.result();
    homeserver.swap("mends-mas-2").run().await.result();
    assert_eq!(homeserver.are_old(), (false, false));
    assert_eq!(homeserver.mas.sql("SELECT count(*) FROM compat_access_tokens"), "200");
}

#[tokio::test]
async fn on_one_server_too_an_undo_finds_out_what_there_is_to_do() {
    let homeserver = Homeserver::on_one_server("mas_undo_one").backed_up().await;
    let uid = "undo-one-01";
    homeserver.restore(uid).run().await.result();
    says_that_nothing_was_swapped(&homeserver.undo(uid, 1).run().await);
    let failed = homeserver.fail(homeserver.swap(uid).with(&["--attempt", "2"])).await;
    assert_eq!((leaves(&failed), homeserver.are_old()), (Some(Leaves::InStep), (true, true)), "{failed:?}");
    homeserver.swap(uid).with(&["--attempt", "3"]).run().await.result();
    homeserver.undo(uid, 4).run().await.result();
    assert_eq!(homeserver.are_old(), (true, true));
}
