//! What of a database is not backed up.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Schemas and tables in Synapse's database that are not Synapse's. Their rows and definitions are not in the backup, so a restore does
/// not bring them back. Names are exact, never patterns.
#[derive(clap::Args, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.schemas) || has(self.tables)").message("exclude must name schemas or tables"))]
pub struct Exclude {
    /// Schemas, with all that is in them.
    #[arg(long = "exclude-schema", value_name = "SCHEMA")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 130)))]
    pub schemas: Vec<String>,
    /// Tables, views and sequences as `schema.table`, with their partitions and the tables that inherit from them. A name that has
    /// a dot or a double quote stands in double quotes, as in SQL.
    #[arg(long = "exclude-table", value_name = "SCHEMA.TABLE")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 3, max = 261), regex(pattern = r"^.+\..+$")))]
    pub tables: Vec<String>,
}

impl Exclude {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let schemas = self.schemas.iter().map(|name| format!("--exclude-schema={name}"));
        schemas.chain(self.tables.iter().map(|name| format!("--exclude-table={name}"))).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty() && self.tables.is_empty()
    }
}
