//! The processes of a run: the mock, the baseline, the gateway; how each is started and when it counts as started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::child::Child;
use crate::clock::now_ns;
use crate::exchange::{Meter, Tally};
use crate::machine::Cores;
use crate::request::Ask;
use crate::target::{Target, ask, free_address};

/// How long a target may take to its first answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How to start a target, any number of times.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Where it will listen and how it is asked; its pid is filled in at each start.
    pub target: Target,
    /// The binary.
    pub program: PathBuf,
    /// What it is called with.
    pub arguments: Vec<String>,
    /// What asks it to end.
    pub stop_signal: Signal,
}

/// A target that answers.
#[derive(Debug)]
pub struct Running {
    /// How to ask it.
    pub target: Target,
    /// From the start of the process to its first correct answer; zero if it ran already.
    pub start_time: Duration,
    /// The process; none if it was there before the harness.
    child: Option<Child>,
    stop_signal: Signal,
}

impl Running {
    /// A target that somebody else started.
    pub fn external(target: Target) -> Self {
        Self { target, start_time: Duration::ZERO, child: None, stop_signal: Signal::TERM }
    }

    /// Ends it, if the harness started it. Says whether it ended with exit code 0 within 40 s.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn stop(self) -> anyhow::Result<bool> {
        self.child.map_or(Ok(true), |child| child.stop(self.stop_signal, Duration::from_secs(40)))
    }

    /// # Errors
    /// When the process has ended, with its last words.
    pub fn ensure_alive(&mut self) -> anyhow::Result<()> {
        self.child.as_mut().map_or(Ok(()), Child::ensure_alive)
    }
}

impl Recipe {
    /// The empty pass-through, run by this same binary.
    ///
    /// # Errors
    /// When this binary cannot be found or no port is free.
    pub fn baseline(upstream: std::net::SocketAddr, threads: usize) -> anyhow::Result<Self> {
        let address = free_address()?;
        let arguments = ["baseline", "--listen", &address.to_string(), "--upstream", &upstream.to_string()];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.extend(["--threads".to_owned(), threads.to_string()]);
        let target = Target {
            name: "baseline",
            address,
            base_path: "/v1".to_owned(),
            token: "none".to_owned(),
            model_prefix: String::new(),
            pid: None,
        };
        // SIGTERM would let Pingora wait for its grace period of 300 s.
        Ok(Self { target, program: std::env::current_exe()?, arguments, stop_signal: Signal::INT })
    }

    /// Starts it on the target's cores and waits for its first correct answer to a chat completion.
    ///
    /// # Errors
    /// When it ends, or does not answer 200 within 30 s.
    pub fn start(&self, folder: &Path, cores: &Cores) -> anyhow::Result<Running> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let errors = folder.join(format!("{}.stderr", self.target.name));
        let started_ns = now_ns();
        let mut child = Child::start(self.target.name, command, &cores.target, errors)?;
        let target = Target { pid: Some(child.pid()), ..self.target.clone() };
        let limit_ns = started_ns + u64::try_from(START_LIMIT.as_nanos())?;
        loop {
            child.ensure_alive()?;
            let Err(error) = first_answer(&target) else { break };
            if now_ns() > limit_ns {
                let words = child.last_errors();
                bail!("{} did not answer within {START_LIMIT:?}: {error:#}\n{words}", target.name);
            }
            thread::sleep(Duration::from_millis(1));
        }
        let start_time = Duration::from_nanos(now_ns() - started_ns);
        Ok(Running { target, start_time, child: Some(child), stop_signal: self.stop_signal })
    }
}

/// Starts the mock on the load's cores; gives it and its address.
///
/// # Errors
/// When it does not start.
pub fn start_mock(folder: &Path, cores: &Cores, threads: usize) -> anyhow::Result<(Child, std::net::SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["mock", "--listen", "127.0.0.1:0", "--threads", &threads.to_string()]);
    let mut child = Child::start("mock", command, &cores.load, folder.join("mock.stderr"))?;
    let line = child.first_line()?;
    let address = line.parse().with_context(|| format!("the mock said {line:?} instead of its address"))?;
    Ok((child, address))
}

/// Starts a Redis that keeps nothing on the disk on the load's cores; gives it and its address.
///
/// # Errors
/// When the program is missing (`tools/need redis` installs it) or does not listen within 10 s.
pub fn start_redis(folder: &Path, cores: &Cores) -> anyhow::Result<(Child, std::net::SocketAddr)> {
    let address = free_address()?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--appendonly", "no"]);
    command.current_dir(folder);
    let mut child = Child::start("redis", command, &cores.load, folder.join("redis.stderr"))?;
    for _ in 0..1_000 {
        if std::net::TcpStream::connect(address).is_ok() {
            return Ok((child, address));
        }
        child.ensure_alive()?;
        thread::sleep(Duration::from_millis(10));
    }
    bail!("redis-server does not listen on {address}")
}

/// Asks once on a new connection.
///
/// # Errors
/// When the answer is not as it should be.
pub fn first_answer(target: &Target) -> anyhow::Result<()> {
    let request = Ask::Chat { prompt_bytes: 900, delay_ms: 0 }.of(target);
    let mut stream = target.connect()?;
    ask(&mut stream, &request, now_ns(), &Meter::default(), &mut Tally::default()).map(drop)
}
