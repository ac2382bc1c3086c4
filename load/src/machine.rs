//! The machine that is measured on: its cores and who runs where, its limits, its name for the report.

use std::fs;
use std::io;
use std::process::Command;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

/// Which cores the target has and which the mock and the load share. Both are all cores on a machine with one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cores {
    /// For the baseline and the gateway, which never work at the same time.
    pub target: Vec<usize>,
    /// For the mock and the load.
    pub load: Vec<usize>,
}

impl Cores {
    /// Divides the cores that this process may use: the first `wanted` for the target (at least one stays for the load).
    ///
    /// # Errors
    /// When the kernel does not say which cores there are.
    pub fn divide(wanted: usize) -> io::Result<Self> {
        let set = sched_getaffinity(None)?;
        let available: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
        Ok(Self::divided(&available, wanted))
    }

    fn divided(available: &[usize], wanted: usize) -> Self {
        if available.len() < 2 {
            return Self { target: available.to_vec(), load: available.to_vec() };
        }
        let (target, load) = available.split_at(wanted.clamp(1, available.len() - 1));
        Self { target: target.to_vec(), load: load.to_vec() }
    }

    /// Whether the target has cores of its own.
    pub fn are_apart(&self) -> bool {
        self.target != self.load
    }
}

/// Pins the calling thread, and what it starts from now on, to some cores.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// A runtime with as many worker threads; one thread means the calling one.
///
/// # Errors
/// When threads or descriptors cannot be had.
pub fn runtime(threads: usize) -> io::Result<Runtime> {
    if threads <= 1 {
        return Builder::new_current_thread().enable_all().build();
    }
    Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// Allows this process and its children as many descriptors as the system lets them have.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// What a reader of the report must know about the machine and the code.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor as the kernel names it.
    pub processor: String,
    /// Cores that the harness may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The load average over one minute when the run began: well above 0 means that others were at work.
    pub load_average: f64,
    /// The commit of the working tree, with `+` if files were changed; `unknown` outside a repository.
    pub commit: String,
}

impl Machine {
    /// Describes this machine.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn describe(cores: usize) -> anyhow::Result<Self> {
        let processors = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo; the harness needs Linux")?;
        let processor = processors.lines().find_map(|line| line.strip_prefix("model name"));
        let average = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            processor: processor.map_or("unknown", |text| text.trim_start_matches([' ', '\t', ':'])).to_owned(),
            cores,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_average: average.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0),
            commit: commit(),
        })
    }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    if changed { format!("{hash}+") } else { hash }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_core_is_shared() {
        let cores = Cores::divided(&[3], 1);
        assert_eq!((cores.target.as_slice(), cores.load.as_slice()), ([3].as_slice(), [3].as_slice()));
        assert!(!cores.are_apart());
    }

    #[test]
    fn the_load_always_keeps_a_core() {
        assert_eq!(Cores::divided(&[0, 1], 9), Cores { target: vec![0], load: vec![1] });
        assert_eq!(Cores::divided(&[0, 1, 2, 5], 2), Cores { target: vec![0, 1], load: vec![2, 5] });
        assert_eq!(Cores::divided(&[0, 1, 2], 0), Cores { target: vec![0], load: vec![1, 2] });
    }
}
