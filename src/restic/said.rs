//! What restic says, and which of it tells why.
//!
//! The only way of its words into ours: all that it prints to its standard error comes through [`each_complaint`], without
//! secrets. What it prints to standard output is data.

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::ChildStderr,
};

use super::secrets::Secrets;

/// As much of restic's own words is repeated.
const WORDS: usize = 1500;

/// Of what a program says, as much is kept.
const KEPT: usize = 16 << 10;

/// Looks at every line of an output, until its end.
pub async fn each_line(output: Option<impl AsyncRead + Unpin>, mut look: impl FnMut(&str)) {
    let mut lines = output.map(|output| BufReader::new(output).split(b'\n'));
    while let Some(lines) = &mut lines
        && let Ok(Some(line)) = lines.next_segment().await
    {
        look(&String::from_utf8_lossy(&line));
    }
}

/// Looks at every line of what restic complains of, until its end: without secrets.
pub async fn each_complaint(stderr: Option<ChildStderr>, secrets: Secrets, mut look: impl FnMut(&str)) {
    each_line(stderr, |line| look(&secrets.mask_line(line))).await;
}

/// Keeps a line, unless there is too much already.
pub fn keep(kept: &mut String, line: &str) {
    if kept.len() < KEPT {
        kept.extend([line, "\n"]);
    }
}

/// Why something failed, on one line: what restic said first, without the places in its source, and each thing once.
pub fn cause(said: &str) -> String {
    // With `--json` an error is an object with all of it in its message.
    let said = said.lines().map(message).collect::<Vec<_>>().join("\n");
    let mut causes: Vec<&str> = Vec::new();
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        // A function, and below it where it stands.
        let is_frame = is_place(line) || lines.peek().is_some_and(|next| is_place(next));
        let line = retried(line).unwrap_or(line).trim().trim_end_matches('.');
        if !is_frame && !line.is_empty() && !causes.iter().any(|before| before.contains(line)) {
            causes.push(line);
        }
    }
    let text = causes.join("; ");
    match text.len() {
        0 => "it said nothing.".to_owned(),
        1..=WORDS => format!("{text}."),
        // The beginning tells why, and the end what became of it.
        length => {
            let (begin, end) = (text.floor_char_boundary(WORDS * 2 / 3), text.ceil_char_boundary(length - WORDS / 3));
            format!("{} … {}.", &text[..begin], &text[end..])
        }
    }
}

/// A place in a source, with a tab in front: `github.com/restic/restic@v0.18.1/cmd/restic/main.go:12`.
fn is_place(line: &str) -> bool {
    let place = line.strip_prefix('\t').and_then(|line| line.rsplit_once(':'));
    place.is_some_and(|(file, number)| {
        [".go", ".s"].iter().any(|ending| file.ends_with(ending))
            && number.split_whitespace().next().is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// With `--json` an error is an object with the message in it.
pub fn message(line: &str) -> String {
    let object: Option<Value> = serde_json::from_str(line).ok();
    let message =
        object.as_ref().and_then(|object| object["message"].as_str().or_else(|| object["error"]["message"].as_str()));
    message.unwrap_or(line).to_owned()
}

/// Why restic tries something once more, if that is what the line tells.
pub fn retried(line: &str) -> Option<&str> {
    let (_, tells) = line.split_once(" returned error, retrying after ")?;
    tells.split_once(": ").map(|(_, why)| why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// restic 0.18 of a bucket without the right to delete; the middle of its stack is left out.
    const STACK: &str = "Remove(<lock/b801696096>) failed: client.RemoveObject: Access Denied.\n\
        Access Denied.\nclient.RemoveObject\n\
        github.com/restic/restic/internal/backend/s3.(*Backend).Remove\n\
        \tgithub.com/restic/restic@v0.18.1/internal/backend/s3/s3.go:390\n\
        golang.org/x/sync/errgroup.(*Group).Go.func1\n\
        \tgolang.org/x/sync@v0.16.0/errgroup/errgroup.go:93\n\
        runtime.goexit\n\truntime/asm_amd64.s:1771\n";

    #[test]
    fn the_cause_is_no_stack_trace() {
        let expected = "Remove(<lock/b801696096>) failed: client.RemoveObject: Access Denied.";
        assert_eq!(cause(STACK), expected);
        let (first, rest) = STACK.split_once('\n').unwrap();
        let json = serde_json::json!({"message_type": "exit_error", "code": 1, "message": rest});
        assert_eq!(cause(&format!("{first}\n{json}\n")), expected);
        let panicked = "panic: runtime error: index out of range\n\ngoroutine 1 [running]:\n\
                        main.run(0x1)\n\t/src/cmd/restic/main.go:12 +0x1d\n";
        assert_eq!(cause(panicked), "panic: runtime error: index out of range; goroutine 1 [running]:.");
    }

    #[test]
    fn json_and_plain_words_are_told_alike_and_once() {
        assert_eq!(
            cause("{\"message_type\":\"exit_error\",\"code\":12,\"message\":\"Fatal: wrong password\"}\n"),
            "Fatal: wrong password."
        );
        assert_eq!(cause("Fatal: a\n\nb\n"), "Fatal: a; b.");
        assert_eq!(cause(""), "it said nothing.");
        let again = "Stat(<config/>) returned error, retrying after 1.08s: dial tcp: no such host\n";
        assert_eq!(cause(&again.repeat(3)), "dial tcp: no such host.");
    }

    #[test]
    fn of_too_many_words_the_first_and_the_last_are_kept() {
        let many: String = (0..900).map(|number| format!("ü{number}\n")).collect();
        let cause = cause(&many);
        assert!(cause.starts_with("ü0; ü1;") && cause.ends_with("ü899.") && cause.len() < WORDS + 20, "{cause}");
    }
}
