//! A backup's media, on their way back: what is found out before anything begins.

pub mod files;

use std::{path::PathBuf, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{
    bytes,
    contract::{Result, StepPlan},
    task::{
        backup::media::LOOKS_FOR_LINKS,
        restore::{
            media::files::{no_media, writable},
            source::Chosen,
        },
    },
    words::counted,
};

/// What is wanted of the media.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WantedMedia {
    /// Synapse's media_store_path.
    pub media_store: PathBuf,
    /// A backup without media is no reason to refuse.
    pub if_any: bool,
}

impl WantedMedia {
    /// What would be done.
    ///
    /// # Errors
    /// Terminal: `NoMediaInBackup`, `MediaMissing`, `MediaNotWritten`, `MediaLinked`.
    pub(super) fn plan(&self, chosen: &Chosen, step: &str) -> Result<StepPlan> {
        let summary = match &chosen.manifest.media {
            None if self.if_any => "the backup has no media".to_owned(),
            None => return Err(no_media(&chosen.backup)),
            Some(media) => {
                writable(&self.media_store, Some(Instant::now() + LOOKS_FOR_LINKS))?;
                let size = bytes::human(media.bytes.cast_signed());
                let files = counted(media.files, "file of media", "files of media");
                format!("would put back what is missing of {files} ({size})")
            }
        };
        Ok(StepPlan { step: step.to_owned(), summary, ..StepPlan::default() })
    }
}
