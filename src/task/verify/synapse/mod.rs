//! The homeserver's own Synapse on the restored database: whether it starts there, and answers what the database knows.
//!
//! It runs in a container beside the task ([`job::synapse`](crate::operation::job::synapse)) and waits for the
//! configuration that is written here, [`config`]: nothing in that leads outside, and what might do so all the same is
//! refused by the program that runs Synapse. What it answers is compared with what [`witness`] read before.

mod answers;
mod config;
mod witness;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::Arguments;
use crate::{
    contract::{Result, TaskError, output::progress},
    postgres::Target,
};

/// As much of its log goes into a message, in bytes.
const WORDS: usize = 1500;
/// How often it is asked whether it is up.
const PAUSE: Duration = Duration::from_millis(300);
/// Synapse was ended by SIGKILL, as the program that runs it writes it.
const KILLED: &str = "-9";

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub summary: String,
    /// What it wanted to do and was kept from.
    pub warnings: Vec<String>,
}

/// Starts it and asks it.
///
/// # Errors
/// Terminal. Of the backup speak `SynapseDidNotStart`, with the end of its log, and `SynapseAnswersWrong`; of the drill
/// `SynapseKilled` and `SynapseSilent`. What PostgreSQL says.
pub async fn ask(arguments: &Arguments, place: &Path, database: &Target, server_name: &str) -> Result<Seen> {
    progress("starts Synapse on the restored database");
    let began = Instant::now();
    let witness = witness::Witness::call(database, server_name).await?;
    let synapse = Synapse { place: place.to_owned(), port: arguments.synapse_port };
    synapse.configure(&config::homeserver(server_name, arguments.synapse_port, database))?;
    let patience = Duration::from_secs(arguments.synapse_patience);
    let client = answers::Client::new(synapse.port)?;
    while !client.is_up().await {
        synapse.runs()?;
        if began.elapsed() > patience {
            return Err(TaskError::terminal(
                "SynapseSilent",
                format!("Synapse has not answered within {} s. {}", patience.as_secs(), synapse.last_words()),
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
    let seconds = began.elapsed().as_secs();
    progress("Synapse answers");
    let answered = match client.examine(&witness).await {
        Ok(answered) => answered,
        Err(wrong) => {
            synapse.runs()?;
            return Err(TaskError::terminal("SynapseAnswersWrong", format!("{wrong}. {}", synapse.last_words())));
        }
    };
    let upgraded = witness.schema_upgraded(database).await?;
    Ok(Seen {
        summary: format!("{} starts on it within {seconds} s{upgraded}, and {}", answered.version, answered.summary),
        warnings: synapse.wanted_out(),
    })
}

/// The container beside the task, by what it leaves in a folder that both have.
struct Synapse {
    place: PathBuf,
    port: u16,
}

impl Synapse {
    /// Gives it what it waits for: all at once, or not at all.
    fn configure(&self, config: &serde_json::Value) -> Result<()> {
        let (new, file) = (self.place.join("homeserver.yaml.new"), self.place.join("homeserver.yaml"));
        fs::write(&new, config.to_string())
            .and_then(|()| fs::rename(&new, &file))
            .map_err(|error| TaskError::no_scratch_space(&error))
    }

    /// Whether it has not ended.
    fn runs(&self) -> Result<()> {
        let Ok(code) = fs::read_to_string(self.place.join("ended")) else { return Ok(()) };
        Err(match code.as_str() {
            KILLED => TaskError::terminal(
                "SynapseKilled",
                format!("Synapse was killed in the drill, as for want of memory. {}", self.last_words()),
            ),
            code => TaskError::terminal(
                "SynapseDidNotStart",
                format!(
                    "Synapse does not run on the restored database: it ended with exit code {code}. {}",
                    self.last_words()
                ),
            ),
        })
    }

    fn last_words(&self) -> String {
        let log = fs::read(self.place.join("synapse.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let log = log.trim();
        match &log[log.ceil_char_boundary(log.len().saturating_sub(WORDS))..] {
            "" => "It has printed nothing".to_owned(),
            end => format!("The end of its log: {end}"),
        }
    }

    /// Whom it wanted to talk to, each once.
    fn wanted_out(&self) -> Vec<String> {
        let refused = fs::read_to_string(self.place.join("refused")).unwrap_or_default();
        let mut wanted: Vec<&str> = refused.lines().collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.truncate(5);
        let told = |wanted: String| format!("Synapse wanted to talk to {wanted} in the drill, and was kept from it");
        (!wanted.is_empty()).then(|| told(wanted.join(", "))).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_it_ended_is_told_with_the_end_of_its_log() {
        let place = tempfile::tempdir().unwrap();
        let synapse = Synapse { place: place.path().to_owned(), port: 0 };
        assert_eq!(synapse.runs(), Ok(()));
        assert!(synapse.last_words().contains("nothing") && synapse.wanted_out().is_empty());
        fs::write(place.path().join("synapse.log"), format!("{}\nthe schema is too new\n", "x".repeat(9000))).unwrap();
        fs::write(place.path().join("refused"), "b\na\nb\n").unwrap();
        for (code, reason) in [("1", "SynapseDidNotStart"), ("0", "SynapseDidNotStart"), ("-9", "SynapseKilled")] {
            fs::write(place.path().join("ended"), code).unwrap();
            let error = synapse.runs().unwrap_err();
            assert_eq!(error.reason, reason);
            assert!(error.message.ends_with("the schema is too new") && error.message.len() < 2000, "{error}");
        }
        assert!(synapse.wanted_out()[0].contains("talk to a, b in"), "{:?}", synapse.wanted_out());
    }
}
