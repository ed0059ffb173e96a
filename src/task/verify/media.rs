//! Whether the media are there: all of them by their number and length, and some of them byte by byte.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
};

use crate::{
    api::verification::MediaCheck,
    bytes,
    contract::{MediaSample, Result, TaskError, output::progress},
    postgres::Target,
    restic::{Download, Entry, File, Repository},
    task::backup::{
        manifest::StoredMedia,
        media::named::{self, Wanted},
    },
    words::{counted, counted_are},
};

/// As many are read. Others the next time: in the end all are looked at.
const READ: usize = 20;

/// What was seen, for people, and what of the media is there that the restored database names.
pub type Seen = (String, Option<MediaSample>);

/// Looks. `target` is the restored database.
///
/// # Errors
/// Terminal: `MediaDiffer`; `MediaMissing`, where none of the media is there that the database names. What restic says: it compares
/// what it reads with its checksums.
pub async fn check(
    repository: &Repository,
    media: &StoredMedia,
    how_many: MediaCheck,
    target: &Target,
) -> Result<Seen> {
    progress("looks at the media");
    let named = match media.elsewhere {
        true => Vec::new(),
        false => named::sample(&mut target.connect().await?, media.remote).await?,
    };
    let mut wanted = Wanted::new(named);
    let differ = |what: String| {
        TaskError::terminal("MediaDiffer", format!("The media in the backup are not what was backed up: {what}."))
    };
    let (mut files, mut length, mut drawn) = (0, 0, BTreeMap::new());
    let mut links = Vec::new();
    let lots = RandomState::new();
    let look = |entry: Entry| {
        let file = match entry {
            Entry::File(file) => file,
            Entry::Link(link) => return links.push(link.path),
        };
        files += 1;
        length += file.size;
        wanted.is_there(&file.path);
        // Another one can be asked for by its path.
        if file.has_its_path() {
            drawn.insert(lots.hash_one(&file.path), file);
        }
        if drawn.len() > READ {
            drawn.pop_last();
        }
    };
    repository.look_at_files(&media.snapshot, look).await?;
    if let Some(link) = links.first() {
        let count = counted(links.len(), "link was", "links were");
        return Err(differ(format!("{count} stored without the files behind them, such as {link}")));
    }
    if (files, length) != (media.files, media.bytes) {
        return Err(differ(format!(
            "there are {files} files of {length} bytes, and there were {} of {}",
            media.files, media.bytes
        )));
    }
    let sample = if media.elsewhere { None } else { Some(wanted.judge("the backup")?) };
    let total = bytes::human(length.cast_signed());
    if how_many == MediaCheck::All {
        let read = read(repository.read_all(&media.snapshot)?, "the media").await?;
        if read < length {
            return Err(differ(format!("{read} bytes of {length} could be read")));
        }
        let files = counted_are(files, "file of media", "files of media");
        return Ok((format!("{files} there ({total}), all read byte by byte"), sample));
    }
    for File { path, size } in drawn.values() {
        let read = read(repository.read_stream(&media.snapshot, path.trim_start_matches('/'))?, path).await?;
        if read != *size {
            return Err(differ(format!("{path} has {read} bytes of {size}")));
        }
    }
    let files = counted_are(files, "file of media", "files of media");
    Ok((format!("{files} there ({total}), {} read byte by byte", drawn.len()), sample))
}

/// Reads to the end; how many bytes that were.
async fn read(mut download: Download, what: &str) -> Result<u64> {
    let mut output = download.output.take().expect("its output is a pipe");
    let read = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    drop(output);
    download.finish().await?;
    read.map_err(|error| TaskError::transient("ResticFailed", format!("Reading {what}: {error}.")))
}
