//! Whether the media are there: all of them by their number and length, and some of them byte by byte.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
};

use crate::{
    api::verification::MediaCheck,
    bytes,
    restic::{Download, File, Repository},
    task::{
        backup::manifest::StoredMedia,
        output::progress,
        report::{Result, TaskError},
    },
};

/// As many are read. Others the next time: in the end all are looked at.
const READ: usize = 20;

/// Looks; says what was seen.
///
/// # Errors
/// Terminal, `MediaDiffer`. What restic says: it compares what it reads with its checksums.
pub async fn check(repository: &Repository, media: &StoredMedia, how_many: MediaCheck) -> Result<String> {
    progress("looks at the media");
    let differ = |what: String| {
        TaskError::terminal("MediaDiffer", format!("The media in the backup are not what was backed up: {what}."))
    };
    let (mut files, mut length, mut drawn) = (0, 0, BTreeMap::new());
    let lots = RandomState::new();
    let look = |file: File| {
        files += 1;
        length += file.size;
        drawn.insert(lots.hash_one(&file.path), file);
        if drawn.len() > READ {
            drawn.pop_last();
        }
    };
    repository.look_at_files(&media.snapshot, look).await?;
    if (files, length) != (media.files, media.bytes) {
        return Err(differ(format!(
            "there are {files} files of {length} bytes, and there were {} of {}",
            media.files, media.bytes
        )));
    }
    let total = bytes::human(length.cast_signed());
    if how_many == MediaCheck::All {
        let read = read(repository.read_all(&media.snapshot)?, "the media").await?;
        if read < length {
            return Err(differ(format!("{read} bytes of {length} could be read")));
        }
        return Ok(format!("{files} files of media are there ({total}), and all of them were read"));
    }
    for File { path, size } in drawn.values() {
        let read = read(repository.read_stream(&media.snapshot, path.trim_start_matches('/'))?, path).await?;
        if read != *size {
            return Err(differ(format!("{path} has {read} bytes of {size}")));
        }
    }
    Ok(format!("{files} files of media are there ({total}), and {} of them were read", drawn.len()))
}

/// Reads to the end; how many bytes that were.
async fn read(mut download: Download, what: &str) -> Result<u64> {
    let mut output = download.output.take().expect("its output is a pipe");
    let read = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    drop(output);
    download.finish().await?;
    read.map_err(|error| TaskError::transient("ResticFailed", format!("Reading {what}: {error}.")))
}
