//! What was found of the media that a database names.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::conditions::{Conditions, Type};
use crate::contract::MediaSample;

/// Writes the condition, or removes it where no file is missing. `place`: where the files were looked for.
pub(super) fn report(
    conditions: &mut Vec<Condition>,
    found: &MediaSample,
    place: &str,
    generation: i64,
    now: Timestamp,
) {
    let mut conditions = Conditions::new(conditions, generation, now);
    if found.missing == 0 {
        conditions.clear(Type::MediaMissing);
        return;
    }
    let MediaSample { looked_for, missing, example } = found;
    let message = format!(
        "{missing} of {looked_for} files of media that were looked for are not in {place}, and the database names them; one of \
         them is {example}. Synapse answers 404 for such media. If a storage provider of Synapse has them, such as S3, set \
         spec.mediaStore.elsewhere of the Synapse object to true"
    );
    conditions.set(Type::MediaMissing, true, "SomeMediaMissing", &message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::find;

    #[test]
    fn missing_media_are_a_condition_until_none_is_missing() {
        let mut list = Vec::new();
        let some = MediaSample { looked_for: 200, missing: 3, example: "local_content/aa/bb/cc".to_owned() };
        report(&mut list, &some, "the media store", 1, Timestamp::UNIX_EPOCH);
        let condition = find(&list, Type::MediaMissing).expect("a condition");
        for words in ["3 of 200 files", "local_content/aa/bb/cc", "the media store", "spec.mediaStore.elsewhere"] {
            assert!(condition.message.contains(words), "{condition:?}");
        }
        report(&mut list, &MediaSample { missing: 0, ..some }, "the media store", 1, Timestamp::UNIX_EPOCH);
        assert_eq!(list, []);
    }
}
