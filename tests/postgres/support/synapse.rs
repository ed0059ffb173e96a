//! A real Synapse, as the container beside a drill runs it or as anybody would, and a listener that it may want to talk to.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use synapse_keeper::operation::job::synapse::SERVE;

use super::{
    daemon::{self, Daemon},
    database::synapse_python,
};

/// A Synapse in a process of its own. Dropped: ended.
pub struct Synapse(Daemon);

impl Synapse {
    /// What the container beside a drill does: it waits for a configuration.
    pub fn of_a_drill() -> Self {
        let directory = daemon::new_directory();
        let place = directory.display().to_string();
        Self(Daemon::guard(directory, "TERM", &command(&["-c", SERVE, &place])))
    }

    /// Synapse as everybody runs it.
    pub fn at_large(config: &Value) -> Self {
        let directory = daemon::new_directory();
        let file = directory.join("homeserver.yaml");
        fs::write(&file, config.to_string()).expect("a file");
        let file = file.display().to_string();
        Self(Daemon::guard(directory, "TERM", &command(&["-m", "synapse.app.homeserver", "--config-path", &file])))
    }

    /// The folder that the task and the container have in common.
    pub fn place(&self) -> PathBuf {
        self.0.directory.clone()
    }

    pub fn configure(&self, config: &Value) {
        let (new, file) = (self.place().join("new"), self.place().join("homeserver.yaml"));
        fs::write(&new, config.to_string()).and_then(|()| fs::rename(new, file)).expect("a file");
    }

    /// Whom it wanted to talk to and could not.
    pub fn refused(&self) -> String {
        fs::read_to_string(self.place().join("refused")).unwrap_or_default()
    }
}

fn command(arguments: &[&str]) -> Vec<String> {
    let python = synapse_python().display().to_string();
    [python.as_str(), "-u", "-B"].iter().chain(arguments).map(|word| (*word).to_owned()).collect()
}

/// Somebody in the outside world, on the loopback.
pub struct Listener {
    pub port: u16,
    heard: Arc<AtomicUsize>,
}

impl Listener {
    /// One who hangs up on everybody.
    pub fn silent() -> Self {
        Self::answering(|_| None)
    }

    /// One who answers requests for these paths with JSON.
    pub fn answering(answer: impl Fn(&str) -> Option<Value> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let heard = Arc::new(AtomicUsize::new(0));
        let count = heard.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = serve(stream, &answer);
            }
        });
        Self { port, heard }
    }

    /// How many connections came.
    pub fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, answer: &impl Fn(&str) -> Option<Value>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    let text = String::from_utf8_lossy(&request[..length]);
    let Some(body) = text.split_whitespace().nth(1).and_then(answer) else { return Ok(()) };
    let body = body.to_string();
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// What a server on this port of the loopback answers.
pub fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
