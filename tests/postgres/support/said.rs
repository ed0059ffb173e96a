//! What a program prints, and what is known of one that does not end.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Child,
    task::JoinHandle,
};

/// Both outputs of a program, read while it works: a full pipe stops it.
pub struct Said {
    stdout: Output,
    stderr: Output,
}

struct Output {
    so_far: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Said {
    /// Reads both outputs. `read`: what was read of the first before.
    pub fn of(child: &mut Child, read: Vec<u8>) -> Self {
        Self { stdout: Output::of(child.stdout.take(), read), stderr: Output::of(child.stderr.take(), Vec::new()) }
    }

    /// Waits until both are closed.
    pub async fn close(&mut self) {
        (&mut self.stdout.reader).await.expect("a reader that ends");
        (&mut self.stderr.reader).await.expect("a reader that ends");
    }

    /// The two as they are now.
    pub fn texts(&self) -> (String, String) {
        let text = |output: &Output| String::from_utf8(output.so_far.lock().expect("a whole text").clone());
        (text(&self.stdout).expect("text"), text(&self.stderr).expect("text"))
    }
}

impl Output {
    fn of(pipe: Option<impl AsyncRead + Unpin + Send + 'static>, read: Vec<u8>) -> Self {
        let so_far = Arc::new(Mutex::new(read));
        let kept = so_far.clone();
        let reader = tokio::spawn(async move {
            let Some(mut pipe) = pipe else { return };
            let mut buffer = vec![0; 16 << 10];
            while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
                kept.lock().expect("a whole text").extend(&buffer[..length]);
            }
        });
        Self { so_far, reader }
    }
}

/// The programs that a program has started, and theirs: each with its state, what it waits for in the kernel, and its connections.
pub fn processes(child: &Child) -> String {
    let print = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let mut ids: Vec<String> = child.id().iter().map(u32::to_string).collect();
    let mut index = 0;
    while let Some(id) = ids.get(index) {
        let children = print("ps", &["-o", "pid=", "--ppid", id]);
        ids.extend(children.split_whitespace().map(str::to_owned));
        index += 1;
    }
    let of_them = |line: &&str| ids.iter().any(|id| line.contains(&format!("pid={id},")));
    let connections = print("ss", &["-tnpi", "--oneline"]);
    let connections: Vec<&str> = connections.lines().filter(of_them).collect();
    let list = print("ps", &["-o", "pid,etime,stat,wchan:32,args", "-p", &ids.join(",")]);
    format!("{list}{}", connections.join("\n"))
}
