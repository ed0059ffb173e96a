//! A repository that cannot be written to is found in preflight, before anything is stored, with the name that a person knows.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use synapse_keeper::contract::{ErrorClass, mounted::VARIABLE};

use crate::{
    backup::{MANIFEST, back_up},
    support::{Database, Program, Repository, Storage, daemon},
};

fn preflight(database: &Database, repository: &Repository, location: Option<&str>) -> Program {
    let mut destination = repository.destination();
    destination["init"] = true.into();
    destination["serverName"] = "example.org".into();
    destination["repositoryClaim"] = "nightly".into();
    if let Some(location) = location {
        destination["repository"] = location.into();
    }
    let check = serde_json::json!({"backup": {"destination": destination, "config": {}}});
    let program = database.task("preflight").repository_programs(repository);
    program.with(&["--step", &format!("database={check}")])
}

#[tokio::test]
async fn a_folder_of_another_user_is_found_in_preflight() {
    let database = Database::of_synapse("of_another_user");
    for repository in [Repository::not_made(), Repository::new()] {
        let is_made = repository.path().exists();
        if !is_made {
            fs::create_dir(repository.path()).unwrap();
        }
        let folders = Command::new("find").arg(repository.path()).args(["-type", "d"]).output().unwrap();
        for folder in String::from_utf8(folders.stdout).unwrap().lines() {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
        }
        let place = repository.path().join(if is_made { "." } else { "restic" }).display().to_string();
        let finished = preflight(&database, &repository, Some(&place)).no_superuser().run().await;
        let words = ["permission denied", "Claim nightly cannot be", "as user", "jobs.runAsUser or jobs.fsGroup"];
        let error = finished.refused("RepositoryAccessDenied", &words);
        assert_eq!(error.class, ErrorClass::Terminal, "{error}");
        assert!(!error.message.contains("credentials"), "{error}");
    }
}

#[tokio::test]
async fn a_volume_that_is_mounted_read_only_or_full_is_found_in_preflight() {
    let database = Database::of_synapse("read_only");
    for (options, reason, words) in [
        ("ro,size=1m", "RepositoryAccessDenied", ["Claim nightly", "is mounted read-only"]),
        ("size=4k", "RepositoryFull", ["Claim nightly (4.0 KiB, 0 B of it free)", "not hurt"]),
    ] {
        let repository = Repository::not_made();
        let volume = daemon::new_directory();
        let mount = |arguments: &[&str]| {
            assert!(Command::new(arguments[0]).args(&arguments[1..]).arg(&volume).status().unwrap().success());
        };
        mount(&["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs"]);
        fs::write(volume.join("full"), [0; 4096]).unwrap();
        mount(&["mount", "-o", &format!("remount,{options}")]);
        let place = volume.join("restic").display().to_string();
        let finished = preflight(&database, &repository, Some(&place)).run().await;
        mount(&["umount"]);
        fs::remove_dir(&volume).unwrap();
        assert_eq!(finished.refused(reason, &words).class, ErrorClass::Terminal);
    }
}

#[tokio::test]
async fn preflight_writes_and_leaves_nothing_and_tells_who_may_not_delete() {
    let database = Database::of_synapse("preflight_writes");
    let repository = Repository::new();
    let finished = preflight(&database, &repository, None).run().await;
    assert!(finished.preflight().warnings.is_empty(), "{finished:?}");
    assert_eq!(repository.restic(&["list", "locks", "--no-lock"]), "");
    let storage = Storage::with_a_user();
    let secret = storage.direct_secret();
    back_up(&database, &secret).run().await.backup();
    storage.deny(&[""]);
    let finished = preflight(&database, &secret, None).run().await;
    let [warning] = &finished.preflight().warnings[..] else { panic!("{finished:?}") };
    assert!(warning.contains("may not delete") && warning.contains("Access Denied"), "{warning}");
    assert_eq!(storage.snapshots(MANIFEST).len(), 1);
}

#[tokio::test]
async fn a_key_that_is_not_there_is_called_as_the_user_calls_it() {
    let repository = Repository::new();
    repository.unmount("RESTIC_PASSWORD");
    let path = repository.destination()["repositoryDir"].clone();
    let secrets = serde_json::json!([{
        "path": path, "secret": "nightly-password", "keys": [["RESTIC_PASSWORD", "passwd"]],
        "field": "spec.repository.passwordSecret",
    }]);
    let delete = Program::task("delete-backups").place(&repository).with(&["--origin", "6e7a"]);
    let finished = delete.variable(VARIABLE, &secrets.to_string()).run().await;
    let words = "Secret nightly-password does not exist or has no key `passwd` (spec.repository.passwordSecret).";
    finished.refused("SecretKeyMissing", &[words]);
}
