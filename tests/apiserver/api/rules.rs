//! Wrong input is refused when it is applied, with the name of the field.

use std::sync::Arc;

use crate::stage::{
    Stage, tests,
    world::{SYNAPSE, World, maintenance},
};

tests![
    a_wrong_maintenance_is_refused_and_the_field_named,
    a_wrong_synapse_is_refused_and_the_field_named,
    a_wrong_backup_is_refused_and_the_field_named,
    a_wrong_source_of_a_restore_is_refused_and_the_field_named,
    what_must_not_change_is_refused_and_what_may_is_taken,
    everything_that_the_docs_offer_is_taken,
];

async fn a_wrong_maintenance_is_refused_and_the_field_named(stage: Arc<Stage>, test: &'static str) {
    let world = World::empty(&stage, test).await;
    let long = "m".repeat(53);
    let full = "steps: [{vacuum: {mode: Full}}]";
    let with = |field: &str| format!("{full}\n{field}");
    let wrong: &[(&str, String, &[&str])] = &[
        ("m", with("schedule: {cron: every sunday}"), &["spec.schedule.cron", "five fields"]),
        ("m", with("schedule: {cron: '0 3 * *'}"), &["spec.schedule.cron", "five fields"]),
        ("m", with("schedule: {cron: '@nightly'}"), &["spec.schedule.cron", "@daily"]),
        (
            "m",
            with("schedule: {cron: '@daily', timeZone: 'Europe/ Berlin'}"),
            &["spec.schedule.timeZone", "such as Europe/Berlin"],
        ),
        ("m", with("schedule: {cron: '@daily', startWithin: 90 minutes}"), &["spec.schedule.startWithin"]),
        ("m", with("schedule: {cron: '@daily', jitter: 5}"), &["spec.schedule.jitter"]),
        ("m", with("downtime: {atMost: 1.5h}"), &["spec.downtime.atMost"]),
        ("m", with("downtime: {stopWithin: soon}"), &["spec.downtime.stopWithin"]),
        ("m", with("downtime: {allowed: false}"), &["spec", "downtime.allowed", "Analyze"]),
        ("m", with("jobs: {startWithin: '1 min'}"), &["spec.jobs.startWithin"]),
        ("m", with("jobs: {runAsUser: 0}"), &["spec.jobs.runAsUser"]),
        ("m", with("jobs: {startWithin: 0s}"), &["spec.jobs.startWithin"]),
        ("m", with(&format!("jobs: {{labels: {{a: {}}}}}", "b".repeat(64))), &["spec.jobs.labels.a"]),
        ("m", with("jobs: {tolerations: [{operator: Exist}]}"), &["spec.jobs.tolerations[0].operator", "Exists"]),
        ("m", "steps: []".to_owned(), &["spec.steps"]),
        ("m", "dryRun: true".to_owned(), &["spec.steps"]),
        ("m", "steps: [{}]".to_owned(), &["spec.steps[0]", "vacuum"]),
        ("m", "steps: [{vacuum: {mode: Fool}}]".to_owned(), &["spec.steps[0].vacuum.mode", "Full"]),
        ("m", "steps: [{vacuum: {mode: Full, freeSpace: 20 GB}}]".to_owned(), &["spec.steps[0].vacuum.freeSpace"]),
        ("m", "steps: [{vacuum: {mode: Full, tabels: [events]}}]".to_owned(), &["spec.steps[0].vacuum.tabels"]),
        ("m", with("shedule: {cron: '@daily'}"), &["spec.shedule"]),
        (&long, full.to_owned(), &["metadata.name must have at most 52 characters"]),
    ];
    for (name, fields, said) in wrong {
        refused(&world, &maintenance(name, fields), said).await;
    }
}

async fn a_wrong_synapse_is_refused_and_the_field_named(stage: Arc<Stage>, test: &'static str) {
    let world = World::empty(&stage, test).await;
    let with = |from: &str, to: &str| {
        let changed = SYNAPSE.replace(from, to);
        assert_ne!(changed, SYNAPSE, "{from} is not in it");
        changed
    };
    let selector = "selector: {matchLabels: {app: synapse}}";
    let wrong: &[(String, &[&str])] = &[
        (with(selector, "selector: {}"), &["spec.workloads", "empty selector"]),
        (with(selector, "selector: {matchLabels: {}}"), &["spec.workloads", "empty selector"]),
        (
            with(selector, "selector: {matchLabels: {app: synapse}}\n    refs: [{kind: Deployment, name: a}]"),
            &["spec.workloads", "either selector or refs"],
        ),
        (with(selector, ""), &["spec.workloads", "either selector or refs"]),
        (with(selector, "refs: []"), &["spec.workloads", "at least one workload"]),
        (
            with(selector, "selector: {matchExpressions: [{key: app, operator: Equals}]}"),
            &["spec.workloads.selector.matchExpressions[0].operator"],
        ),
        (with("main: {kind: StatefulSet", "main: {kind: DaemonSet"), &["spec.workloads.main.kind", "StatefulSet"]),
        (
            with("refs: [{kind: Deployment, name: mas}]", "selector: {}"),
            &["spec.matrixAuthenticationService.workloads", "empty selector"],
        ),
        (
            with("name: example}", &format!("name: {}}}", "e".repeat(41))),
            &["metadata.name must have at most 40 characters"],
        ),
        (with("serverName: example.org", "serverName: ''"), &["spec.serverName"]),
        (with("host: postgres,", "host: postgres, port: 70000,"), &["spec.postgres.port"]),
        (with("host: postgres,", "host: postgres, tls: {mode: verify},"), &["spec.postgres.tls.mode"]),
        (with("host: postgres,", "host: postgres, pasword: x,"), &["spec.postgres.pasword"]),
        (with("  serverName", "  mediaStore: {claimName: a, path: ../b}\n  serverName"), &["spec.mediaStore.path"]),
        (with("  serverName", "  mediaStore: {claimName: a, path: /b}\n  serverName"), &["spec.mediaStore.path"]),
        (
            with("  serverName", "  adminApi: {url: 'http://admin:secret@synapse:8008'}\n  serverName"),
            &["spec.adminApi.url"],
        ),
    ];
    for (yaml, said) in wrong {
        refused(&world, yaml, said).await;
    }
}

async fn a_wrong_backup_is_refused_and_the_field_named(stage: Arc<Stage>, test: &'static str) {
    let world = World::empty(&stage, test).await;
    let backup = |fields: &str| {
        format!(
            "apiVersion: synapse-keeper.dev/v1alpha1\nkind: SynapseBackup\nmetadata: {{name: b}}\nspec:\n  \
             synapseRef: {{name: example}}\n  suspend: true\n  repository: {{secretName: s3}}\n  {fields}\n"
        )
    };
    let wrong: &[(&str, &[&str])] = &[
        ("contents: []", &["spec.contents"]),
        ("contents: [Media, Config]", &["contents must have Database", "bring a homeserver back"]),
        ("contents: [Database, Database]", &["spec.contents", "duplicate entries"]),
        ("contents: [Database, Logs]", &["spec.contents", "Media"]),
        ("contents: [Database, Config]\n  remoteMedia: true", &["put Media into contents"]),
        ("quiesce: true\n  downtime: {allowed: false}", &["quiesce takes the homeserver down"]),
        ("exclude: {}", &["spec.exclude", "must name schemas or tables"]),
        ("exclude: {tables: [bridge_log]}", &["spec.exclude.tables[0]"]),
        ("exclude: {patterns: ['public.*']}", &["spec.exclude.patterns"]),
    ];
    for (fields, said) in wrong {
        refused(&world, &backup(fields), said).await;
    }
    let whole = "contents: [Database, Media]\n  remoteMedia: true\n  exclude: {schemas: [monitoring], tables: ['public.\"a.b\"']}";
    world.apply(&backup(whole)).await;
    for fields in [
        "remoteMedia: true",
        "contents: [Database, Media]",
        "contents: [Database, Media, Config]\n  remoteMedia: true",
        "contents: [Database, Media]\n  remoteMedia: true",
        "contents: [Database, Media]\n  remoteMedia: true\n  exclude: {schemas: [monitoring]}",
    ] {
        refused(&world, &backup(fields), &["immutable"]).await;
    }
}

async fn a_wrong_source_of_a_restore_is_refused_and_the_field_named(stage: Arc<Stage>, test: &'static str) {
    let world = World::empty(&stage, test).await;
    let restore = |name: &str, fields: &str| {
        format!(
            "apiVersion: synapse-keeper.dev/v1alpha1\nkind: SynapseRestore\nmetadata: {{name: {name}}}\nspec:\n  \
             synapseRef: {{name: example}}\n  {fields}\n"
        )
    };
    let claim = "claim: {claimName: dumps, path: synapse.dump}";
    let repository = "repository: {secretName: s3}, path: /dumps/synapse.sql";
    let wrong: &[(String, &[&str])] = &[
        ("from: {}".to_owned(), &["spec.from", "give one of backupRef, repository and dump"]),
        (
            format!("from: {{backupRef: {{name: nightly}}, dump: {{{claim}}}}}"),
            &["spec.from", "give one of backupRef, repository and dump"],
        ),
        (
            format!("from: {{dump: {{{claim}, {repository}}}}}"),
            &["spec.from.dump", "either on a claim or in a repository"],
        ),
        ("from: {dump: {}}".to_owned(), &["spec.from.dump", "either on a claim or in a repository"]),
        ("from: {dump: {repository: {secretName: s3}}}".to_owned(), &["spec.from.dump", "has a path in its snapshot"]),
        (
            format!("from: {{dump: {{{claim}, snapshot: latest}}}}"),
            &["spec.from.dump", "only a repository has snapshots"],
        ),
        (format!("from: {{dump: {{{claim}}}, snapshot: abcd}}"), &["spec.from", "which dump it is stands in dump"]),
        ("from: {dump: {claim: {claimName: dumps, path: ../synapse.dump}}}".to_owned(), &["spec.from.dump.claim.path"]),
        (format!("from: {{dump: {{{claim}}}}}\n  contents: [Database, Media]"), &["a dump has no media"]),
        (format!("from: {{dump: {{{claim}}}}}\n  database: {{method: InPlace}}"), &["a dump comes back beside"]),
        (
            "from: {backupRef: {name: nightly}}\n  database: {method: InPlace, existing: Rename}".to_owned(),
            &["spec.database", "wants one that nobody has used"],
        ),
    ];
    for (fields, said) in wrong {
        refused(&world, &restore("r", fields), said).await;
    }
    for (name, dump) in [("on-a-claim", claim), ("in-a-repository", repository)] {
        world.apply(&restore(name, &format!("from: {{dump: {{{dump}}}}}\n  contents: [Database]"))).await;
    }
}

async fn what_must_not_change_is_refused_and_what_may_is_taken(stage: Arc<Stage>, test: &'static str) {
    let world = World::empty(&stage, test).await;
    world.apply(SYNAPSE).await;
    refused(
        &world,
        &SYNAPSE.replace("serverName: example.org", "serverName: example.com"),
        &["spec.serverName", "immutable"],
    )
    .await;
    world.apply(&SYNAPSE.replace("host: postgres", "host: postgres-2")).await;

    let once = "suspend: true\nsteps: [{vacuum: {mode: Full}}]";
    world.maintain("once", once).await;
    world.maintain("once", once).await;
    let changes: [(&str, &[&str]); 5] = [
        ("suspend: true\nsteps: [{vacuum: {mode: Analyze}}]", &["immutable"]),
        ("suspend: true\ndryRun: true\nsteps: [{vacuum: {mode: Full}}]", &["immutable"]),
        ("suspend: true\ndowntime: {atMost: 2h}\nsteps: [{vacuum: {mode: Full}}]", &["immutable"]),
        (
            "suspend: true\nschedule: {cron: '@daily'}\nsteps: [{vacuum: {mode: Full}}]",
            &["spec.schedule", "neither added nor removed"],
        ),
        ("suspend: true\nsteps: [{vacuum: {mode: Full, tables: [events]}}]", &["immutable"]),
    ];
    for (fields, said) in changes {
        refused(&world, &maintenance("once", fields), said).await;
    }
    world.maintain("once", "suspend: false\njobs: {labels: {mesh: 'off'}}\nsteps: [{vacuum: {mode: Full}}]").await;

    world.maintain("weekly", "schedule: {cron: '@weekly'}\nsteps: [{vacuum: {mode: Full}}]").await;
    refused(
        &world,
        &maintenance("weekly", "steps: [{vacuum: {mode: Full}}]"),
        &["spec.schedule", "neither added nor removed"],
    )
    .await;
    let elsewhere = maintenance("weekly", "schedule: {cron: '@weekly'}\nsteps: [{vacuum: {mode: Full}}]");
    refused(
        &world,
        &elsewhere.replace("synapseRef: {name: example}", "synapseRef: {name: other}"),
        &["spec.synapseRef", "immutable"],
    )
    .await;
    world
        .maintain(
            "weekly",
            "schedule: {cron: '0 3 * * 0', timeZone: Europe/Berlin}\nsteps: [{vacuum: {mode: Analyze}}]",
        )
        .await;
}

async fn everything_that_the_docs_offer_is_taken(stage: Arc<Stage>, test: &'static str) {
    let world = World::empty(&stage, test).await;
    for cron in ["0 3 * * 0", "*/15 1-5 1,15 JAN-MAR MON-FRI", "0 3 * * 7", "30 2 L * *", "0 4 * * SUN#2", "@monthly"] {
        world.maintain("m", &format!("schedule: {{cron: '{cron}', timeZone: America/Argentina/Buenos_Aires, startWithin: 1h30m, jitter: 2w}}\nsteps: [{{vacuum: {{mode: Full}}}}]")).await;
    }
    let settings = "
jobs:
  image: registry.internal/tools:1
  resources: {requests: {cpu: 100m}, limits: {memory: 1Gi, cpu: '2'}}
  labels: {mesh: 'off'}
  annotations: {a: b}
  nodeSelector: {disk: ssd}
  tolerations: [{key: dedicated, operator: Exists}, {key: '', operator: Exists, effect: '', tolerationSeconds: 5}]
  imagePullSecrets: [registry]
  priorityClassName: low
  runAsUser: 1000
  fsGroup: 1000
  startWithin: 10m";
    world.maintain("all", &format!("dryRun: true\nsteps: [{{vacuum: {{mode: Full, tables: [events], minimumGain: 1Gi, freeSpace: 20Gi}}}}]{settings}")).await;
    let all = "
  workloads:
    refs: [{kind: Deployment, name: synapse}, {kind: StatefulSet, name: worker}]
    main: {kind: Deployment, name: synapse}
  matrixAuthenticationService:
    workloads: {selector: {matchExpressions: [{key: app, operator: In, values: [mas]}]}}
  adminApi: {url: 'http://synapse:8008'}
  mediaStore: {claimName: synapse-media, path: .}
  suspend: true
  postgres:
    host: postgres.example.org
    port: 5433
    database: synapse
    credentials: {secretName: synapse-postgres}
    dataVolume: {claimName: data-postgres-0}
    tls: {mode: verify-full, caSecret: {name: ca, key: ca.crt}}
    ignoreSessions: [{role: exporter, applicationName: postgres_exporter}]";
    let head = "apiVersion: synapse-keeper.dev/v1alpha1\nkind: Synapse\nmetadata: {name: all}\nspec:\n  serverName: example.org";
    world.apply(&format!("{head}{all}{}", settings.replace('\n', "\n  "))).await;
}

async fn refused(world: &World, yaml: &str, said: &[&str]) {
    let Err(words) = world.try_apply(yaml).await else { panic!("it was taken:\n{yaml}") };
    for word in said {
        assert!(words.contains(word), "{words:?} does not say {word:?}\n{yaml}");
    }
}
