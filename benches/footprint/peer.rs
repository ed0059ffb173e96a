//! k8up beside the operator, on the same API server: another operator of backups and schedules, in Go.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt,
    api::PostParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::wait::{await_condition, conditions},
};
use serde_json::json;

use crate::{
    objects,
    process::Process,
    round::{Installed, account},
    settings::Settings,
    table::Table,
};

const PEER: &str = "k8up 2.13.1 in the same run";

/// It runs.
pub struct K8up {
    process: Process,
    objects: usize,
}

impl K8up {
    /// Starts it and notes what memory it has: idle, and with schedules that are a year away.
    pub async fn measure(
        installed: &Installed,
        program: &Path,
        crds: &Path,
        settings: &Settings,
        table: &mut Table,
    ) -> Self {
        let admin = &installed.stage.admin;
        install_crds(admin, crds).await;
        let token = account(admin, "k8up").await;
        let kubeconfig = installed.folder().join("k8up.kubeconfig");
        std::fs::write(&kubeconfig, installed.stage.control_plane.kubeconfig(&token)).expect("a kubeconfig");
        let environment = [
            ("KUBECONFIG", kubeconfig.to_str().expect("a path in ASCII")),
            ("BACKUP_OPERATOR_NAMESPACE", "k8up"),
            ("HOME", "/nonexistent"),
        ];
        let arguments = ["operator", "--enable-leader-election=false"];
        let process = Process::start(program, &arguments, &environment, &installed.folder().join("k8up.log"));
        let this = Self { process, objects: settings.objects };
        this.note("idle", settings, table).await;

        let gvk = GroupVersionKind::gvk("k8up.io", "v1", "Schedule");
        let api: Api<DynamicObject> = Api::namespaced_with(admin.clone(), "k8up", &ApiResource::from_gvk(&gvk));
        let yesterday = Timestamp::now() - SignedDuration::from_hours(24);
        let cron = yesterday.strftime("0 3 %-d %-m *").to_string();
        objects::at_once(settings.objects, async |number| {
            let object = json!({
                "apiVersion": "k8up.io/v1", "kind": "Schedule", "metadata": {"name": format!("scheduled-{number:04}")},
                "spec": {
                    "backend": {
                        "repoPasswordSecretRef": {"name": "repository", "key": "password"},
                        "s3": {"endpoint": "http://localhost:9000", "bucket": "backups"},
                    },
                    "backup": {"schedule": cron},
                },
            });
            let object: DynamicObject = serde_json::from_value(object).expect("plain data");
            api.create(&PostParams::default(), &object).await.expect("a Schedule");
        })
        .await;
        // It works at twenty requests a second.
        tokio::time::sleep(2 * settings.rest).await;
        this.note(&format!("{} Schedules", this.objects), settings, table).await;
        this
    }

    pub async fn measure_beside_foreign(self, settings: &Settings, table: &mut Table) {
        let when = format!("the same, and {} Secrets and ConfigMaps of others", settings.foreign);
        self.note(&when, settings, table).await;
    }

    async fn note(&self, when: &str, settings: &Settings, table: &mut Table) {
        tokio::time::sleep(settings.rest).await;
        table.note(PEER, format!("resident: {when}"), "MB", self.process.memory().resident);
    }
}

async fn install_crds(admin: &kube::Client, folder: &Path) {
    let crds: Api<CustomResourceDefinition> = Api::all(admin.clone());
    for file in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
        let text = std::fs::read_to_string(file.path()).expect("a file");
        let crd: CustomResourceDefinition = serde_yaml_ng::from_str(&text).expect("a CRD");
        crds.create(&PostParams::default(), &crd).await.unwrap_or_else(|error| panic!("{}: {error}", crd.name_any()));
        await_condition(crds.clone(), &crd.name_any(), conditions::is_crd_established()).await.expect("it is served");
    }
}
