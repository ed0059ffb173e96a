//! The recipe of `SynapseMaintenance`.

use super::{Operation, RecipeStep, Request, Sight};
use crate::{
    api::{
        SynapseMaintenance,
        maintenance::{Step, Vacuum, VacuumMode},
        operation::{DatabaseAccess, Interrupted, OperationStatus, Stage, StepSpec},
    },
    task::preflight::Check,
};

impl Operation for SynapseMaintenance {
    const NAME: &'static str = "SynapseMaintenance";
    const CHANGES_DATABASE: bool = true;

    fn request(&self) -> Request {
        let spec = &self.spec;
        Request {
            synapse: spec.synapse_ref.name.clone(),
            schedule: spec.schedule.clone(),
            suspend: spec.suspend,
            dry_run: spec.dry_run,
            downtime: spec.downtime.clone(),
            jobs: spec.jobs.clone(),
            ..Request::default()
        }
    }

    fn steps(&self, _: Sight<'_>) -> Vec<RecipeStep> {
        let steps = self.spec.steps.iter().enumerate();
        // CEL refuses a step that names nothing, but an object may be older than the rule.
        steps.filter_map(|(index, step)| recipe_step(index + 1, step)).collect()
    }

    fn synapse(&self) -> &str {
        &self.spec.synapse_ref.name
    }

    fn status(&self) -> Option<&OperationStatus> {
        self.status.as_ref()
    }

    fn set_status(&mut self, status: OperationStatus) {
        self.status = Some(status);
    }

    fn memories(&mut self) -> Vec<&mut OperationStatus> {
        self.status.iter_mut().collect()
    }
}

/// One step; `place` counts from 1 as people count the list in their YAML.
fn recipe_step(place: usize, step: &Step) -> Option<RecipeStep> {
    let vacuum = step.vacuum.as_ref()?;
    Some(RecipeStep {
        spec: StepSpec {
            name: format!("vacuum-{place}"),
            stage: match vacuum.mode {
                VacuumMode::Full => Stage::Offline(Interrupted::Whole),
                VacuumMode::Analyze => Stage::Online,
            },
            args: vacuum_args(vacuum),
            database: DatabaseAccess::WithDisk,
            ..StepSpec::default()
        },
        preflight: Some(Check::Vacuum(vacuum.clone()).to_json()),
        ..RecipeStep::default()
    })
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
    use crate::{api::SynapseMaintenanceSpec, recipes::tests::homeserver};

    fn object(spec: &str) -> SynapseMaintenance {
        let spec: SynapseMaintenanceSpec = serde_yaml_ng::from_str(spec).unwrap();
        SynapseMaintenance::new("m", spec)
    }

    #[test]
    fn full_is_offline_and_analyze_is_not() {
        let steps = object(
            "{synapseRef: {name: a}, steps: [{vacuum: {mode: Analyze}}, {vacuum: {mode: Full, tables: [events], freeSpace: 20Gi}}]}",
        )
        .steps(Sight::of(&homeserver("")));
        let [analyze, full] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!((analyze.spec.stage, analyze.spec.name.as_str()), (Stage::Online, "vacuum-1"));
        assert_eq!(analyze.spec.args, ["vacuum", "--mode=Analyze"]);
        assert_eq!((full.spec.stage, full.spec.name.as_str()), (Stage::Offline(Interrupted::Whole), "vacuum-2"));
        assert_eq!(
            full.spec.args,
            ["vacuum", "--mode=Full", "--table=events", "--minimum-gain=16Mi", "--free-space=20Gi"]
        );
        let Ok(Check::Vacuum(vacuum)) = serde_json::from_str(full.preflight.as_ref().unwrap()) else {
            panic!("{full:?}")
        };
        assert_eq!(vacuum.tables, ["events"]);
    }

    #[test]
    fn defaults_are_those_of_the_docs() {
        let request = object("{synapseRef: {name: a}, steps: [{vacuum: {mode: Full}}]}").request();
        assert!(request.downtime.allowed && !request.dry_run && !request.suspend);
        assert_eq!(request.downtime.at_most.to_string(), "1h");
    }
}
