//! A process that the harness starts, pins and ends.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::now_ns;
use crate::machine::{pin, runtime};

/// The children that run now, so that a signal to the harness can end them.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// From now on SIGTERM and SIGINT kill the children before they end the harness: a signal runs no destructors, and a gateway
/// left behind would spoil the next measurement.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn end_with_the_harness() -> anyhow::Result<()> {
    let runtime = runtime(1)?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        for pid in running().iter().filter_map(|pid| i32::try_from(*pid).ok().and_then(Pid::from_raw)) {
            if let Err(error) = kill_process(pid, Signal::KILL) {
                eprintln!("marg-load: process {pid:?} could not be killed: {error}");
            }
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "the load may be in the middle of anything; nothing of it is to be kept"
        )]
        process::exit(130);
    })?;
    Ok(())
}

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running child. It is killed when dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: process::Child,
    errors: PathBuf,
}

impl Child {
    /// Starts `command` on the given cores, with its error stream in the file `errors`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, cores: &[usize], errors: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&errors).with_context(|| format!("create {}", errors.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        // A child inherits the cores of the thread that starts it; this thread ends right after.
        let start = || -> io::Result<process::Child> {
            pin(cores)?;
            command.spawn()
        };
        let started = thread::scope(|scope| scope.spawn(start).join());
        let process = started.map_err(|_| anyhow::anyhow!("the starting thread panicked"))?;
        let process = process.with_context(|| format!("start {name}"))?;
        running().insert(process.id());
        Ok(Self { name: name.to_owned(), process, errors })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The first line of its output; waits for it.
    ///
    /// # Errors
    /// When the process ends, or closes its output, without one.
    pub fn first_line(&mut self) -> anyhow::Result<String> {
        let output = self.process.stdout.take().with_context(|| format!("{} has no output left to read", self.name))?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} said nothing; its last errors:\n{}", self.name, self.last_errors());
        }
        Ok(line.trim_end().to_owned())
    }

    /// # Errors
    /// When the process has ended, with what it wrote to its error stream.
    pub fn ensure_alive(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its last errors:\n{}", self.name, self.last_errors()),
        }
    }

    /// Asks the process to end with `signal`, waits for at most `patience`, then kills it. Says whether it ended by itself
    /// with exit code 0.
    ///
    /// # Errors
    /// When the kernel refuses the signal.
    pub fn stop(mut self, signal: Signal, patience: Duration) -> anyhow::Result<bool> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process has a pid")?;
        if self.process.try_wait()?.is_none() {
            kill_process(pid, signal)?;
        }
        let deadline = now_ns() + u64::try_from(patience.as_nanos())?;
        while now_ns() < deadline {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status.success());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(false)
    }

    /// The end of what it wrote to its error stream.
    pub fn last_errors(&self) -> String {
        let text = fs::read(&self.errors).unwrap_or_default();
        String::from_utf8_lossy(text.get(text.len().saturating_sub(2000)..).unwrap_or(&text)).into_owned()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        running().remove(&self.process.id());
        // Both fail only if it has ended already, which is what is wanted.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
