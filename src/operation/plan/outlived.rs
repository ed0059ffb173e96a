//! Jobs that never end, because others have put containers into their Pods.

use super::{Action, Next, Planner};

impl Planner<'_> {
    /// Deletes a Job whose task has ended and whose result is on record. `None`: there is none.
    pub(super) fn delete_what_is_outlived(&mut self) -> Option<Next> {
        let index = self.run().outlived_step()?;
        let headline = self.step_headline(index, "its task has ended, and its Job is deleted");
        if self.observed.outlived_job.as_ref().is_some_and(|job| job.ours && job.deleted_at.is_none()) {
            return Some((Action::DeleteJob(index), headline));
        }
        let outlived = self.run_mut().steps[index].outlived_by.as_mut()?;
        outlived.job_deleted = true;
        Some((Action::Continue, headline))
    }
}
