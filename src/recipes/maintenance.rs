//! The recipe of `SynapseMaintenance`.

use super::{Operation, RecipeStep, Request};
use crate::api::{
    SynapseMaintenance,
    maintenance::{Step, Vacuum, VacuumMode},
    operation::OperationStatus,
};

impl Operation for SynapseMaintenance {
    fn request(&self) -> Request {
        let spec = &self.spec;
        Request {
            synapse: spec.synapse_ref.name.clone(),
            schedule: spec.schedule.clone(),
            suspend: spec.suspend,
            dry_run: spec.dry_run,
            downtime: spec.downtime.clone(),
            jobs: spec.jobs.clone(),
            steps: spec.steps.iter().enumerate().map(|(index, step)| recipe_step(index + 1, step)).collect(),
        }
    }

    fn status(&self) -> OperationStatus {
        self.status.clone().unwrap_or_default()
    }

    fn set_status(&mut self, status: OperationStatus) {
        self.status = Some(status);
    }
}

/// One step; `place` counts from 1 as people count the list in their YAML.
fn recipe_step(place: usize, step: &Step) -> RecipeStep {
    let preflight = serde_json::to_string(step).expect("a step is plain data");
    match &step.vacuum {
        Some(vacuum) => RecipeStep {
            name: format!("vacuum-{place}"),
            offline: vacuum.mode == VacuumMode::Full,
            args: vacuum_args(vacuum),
            preflight,
        },
        // CEL refuses a step that names nothing, but an object may be older than the rule.
        None => RecipeStep { name: format!("nothing-{place}"), offline: false, args: Vec::new(), preflight },
    }
}

fn vacuum_args(vacuum: &Vacuum) -> Vec<String> {
    let mut args = vec!["vacuum".to_owned(), format!("--mode={:?}", vacuum.mode)];
    args.extend(vacuum.tables.iter().map(|table| format!("--table={table}")));
    if vacuum.mode == VacuumMode::Full {
        args.push(format!("--minimum-gain={}", vacuum.minimum_gain));
        args.extend(vacuum.free_space.iter().map(|free| format!("--free-space={free}")));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SynapseMaintenanceSpec;

    fn request(spec: &str) -> Request {
        let spec: SynapseMaintenanceSpec = serde_yaml_ng::from_str(spec).unwrap();
        SynapseMaintenance::new("m", spec).request()
    }

    #[test]
    fn full_is_offline_and_analyze_is_not() {
        let request = request(
            "{synapseRef: {name: a}, steps: [{vacuum: {mode: Analyze}}, {vacuum: {mode: Full, tables: [events], freeSpace: 20Gi}}]}",
        );
        let [analyze, full] = &request.steps[..] else { panic!("{request:?}") };
        assert_eq!((analyze.offline, analyze.name.as_str()), (false, "vacuum-1"));
        assert_eq!(analyze.args, ["vacuum", "--mode=Analyze"]);
        assert_eq!((full.offline, full.name.as_str()), (true, "vacuum-2"));
        assert_eq!(full.args, ["vacuum", "--mode=Full", "--table=events", "--minimum-gain=16Mi", "--free-space=20Gi"]);
        assert_eq!(serde_json::from_str::<Step>(&full.preflight).unwrap().vacuum.unwrap().tables, ["events"]);
    }

    #[test]
    fn defaults_are_those_of_the_docs() {
        let request = request("{synapseRef: {name: a}, steps: [{vacuum: {mode: Full}}]}");
        assert!(request.downtime.allowed && !request.dry_run && !request.suspend);
        assert_eq!(request.downtime.at_most.to_string(), "1h");
    }
}
