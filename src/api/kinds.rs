//! The list of the kinds that are operations. A new kind is one line here.

/// Calls a macro with every kind of operation, in the order of the docs: its field where there is one of each, and the kind.
macro_rules! operation_kinds {
    ($apply:ident) => {
        $apply! {
            maintenances: crate::api::SynapseMaintenance,
            backups: crate::api::SynapseBackup,
            restores: crate::api::SynapseRestore,
        }
    };
}
pub(crate) use operation_kinds;
