//! Programs that speak JSON lines: events on stdout, commands on stdin.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up. Generous: it is only ever waited for in vain.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running program. It is killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    /// A process group of its own that it started, and that is meant by signals instead.
    group: Option<u64>,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    /// Everything it said, in order; what was waited for and found is marked.
    said: Vec<Said>,
    stderr: String,
}

struct Said {
    event: Value,
    claimed: bool,
}

enum Line {
    Out(String),
    Err(String),
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_swarm");

/// The program under test.
pub fn swarm(name: &str, args: &[&str]) -> Process {
    Process::start(name, &mut swarm_command(args))
}

/// The program under test, not yet started, with nothing from the environment of whoever runs the tests.
pub fn swarm_command(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    without_environment(command)
}

/// The program under test, not yet started, under limits that `sh` sets before it becomes the program.
#[cfg(target_os = "linux")]
pub fn limited_command(limits: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(r#"{limits} && exec "$0" "$@""#)).arg(PROGRAM).args(args);
    without_environment(command)
}

fn without_environment(mut command: Command) -> Command {
    for variable in ["SWARM_TOKEN", "SWARM_URL", "SWARM_INVITE", "SWARM_NAME", "SWARM_LOG"] {
        command.env_remove(variable);
    }
    command
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {command:?} does not start: {error}"));
        let (sender, lines) = mpsc::channel();
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        forward(out, sender.clone(), Line::Out);
        forward(err, sender, Line::Err);
        let stdin = child.stdin.take();
        Self { name: name.into(), child, group: None, stdin, lines, said: Vec::new(), stderr: String::new() }
    }

    /// Writes one command. A program that has died meanwhile is noticed by the next wait.
    pub fn command(&mut self, command: &Value) {
        self.write(format!("{command}\n").as_bytes());
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("stdin is open until it is closed");
        let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The first event that is `wanted` and was not waited for before.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(said) = self.said.iter_mut().find(|said| !said.claimed && wanted(&said.event)) {
                said.claimed = true;
                return said.event.clone();
            }
            self.listen(deadline).unwrap_or_else(|why| panic!("no {what}: {why}\n{}", self.report()));
        }
    }

    /// Waits until something stands on stderr.
    pub fn wait_for_error(&mut self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.stderr.contains(part) {
            self.listen(deadline).unwrap_or_else(|why| panic!("no `{part}`: {why}\n{}", self.report()));
        }
    }

    pub fn wait_event(&mut self, event: &str) -> Value {
        self.wait(event, |said| said["event"] == event)
    }

    /// Everything said so far, in order. After a marker has been waited for, what is not here did not come before it.
    pub fn said(&self) -> impl Iterator<Item = &Value> {
        self.said.iter().map(|said| &said.event)
    }

    /// Waits for the end. Returns how it ended, and what it wrote to stderr.
    pub fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        while self.listen(deadline).is_ok() {}
        assert!(Instant::now() < deadline, "does not end\n{}", self.report());
        let status = self.child.wait().expect("the child is ours");
        (status, std::mem::take(&mut self.stderr))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What other users of the machine can see of it.
    pub fn command_line(&self) -> String {
        let path = format!("/proc/{}/cmdline", self.child.id());
        String::from_utf8_lossy(&std::fs::read(path).expect("it runs")).replace('\0', " ")
    }

    /// How many files it may open now, and at most.
    #[cfg(target_os = "linux")]
    pub fn open_files_limits(&self) -> Vec<String> {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.id())).expect("it is running");
        let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
        files.split_whitespace().skip(3).take(2).map(str::to_owned).collect()
    }

    /// Sends a signal by name: `KILL`, `STOP`, `CONT`, `TERM`.
    pub fn signal(&self, name: &str) {
        let whom = match self.group {
            Some(group) => format!("-{group}"),
            None => self.child.id().to_string(),
        };
        let status = Command::new("kill").args(["-s", name, "--", &whom]).status();
        assert!(status.is_ok_and(|status| status.success()), "{}: cannot send {name}", self.name);
    }

    /// Signals are for this process group, which the program leads others in.
    pub fn signal_group(&mut self, group: u64) {
        self.group = Some(group);
    }

    fn listen(&mut self, deadline: Instant) -> Result<(), &'static str> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(Line::Out(line)) => {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                self.said.push(Said { event, claimed: false });
                Ok(())
            }
            Ok(Line::Err(line)) => {
                self.stderr.push_str(&line);
                self.stderr.push('\n');
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => Err("it did not come in time"),
            Err(RecvTimeoutError::Disconnected) => Err("the program has ended"),
        }
    }

    /// What it said so far, for whoever looks for the reason of a failure.
    pub fn report(&mut self) -> String {
        while self.listen(Instant::now()).is_ok() {}
        let said: Vec<String> = self.said().map(Value::to_string).collect();
        format!("{} said:\n{}\nand on stderr:\n{}", self.name, said.join("\n"), self.stderr)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // A stopped group would not notice that its driver is gone; one that has ended is no news.
            let _ = Command::new("kill")
                .args(["-s", "KILL", "--", &format!("-{group}")])
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(from: impl Read + Send + 'static, to: mpsc::Sender<Line>, kind: fn(String) -> Line) {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if to.send(kind(String::from_utf8_lossy(&line).into_owned())).is_err() {
                return;
            }
        }
    });
}
