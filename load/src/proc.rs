//! What the kernel says about a process: CPU time, run-queue wait, memory, threads (Linux, `proc(5)`).
//!
//! CPU time comes from `/proc/PID/task/*/schedstat` in nanoseconds, summed over the threads. If a thread ended between two
//! readings its time is gone from there; then the difference is taken from `/proc/PID/stat` instead, which keeps the time of
//! ended threads but counts in ticks of 10 ms.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::Serialize;

/// The CPU time of a process at one moment.
#[derive(Clone, Debug, Default)]
pub struct CpuReading {
    /// Nanoseconds on a CPU and nanoseconds waiting for one, by thread.
    threads: BTreeMap<u32, (u64, u64)>,
    /// User and system time together, ended threads included.
    coarse_ns: u64,
}

/// What a process used between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSpent {
    /// Nanoseconds on a CPU.
    pub busy_ns: u64,
    /// Nanoseconds in which a thread could have run but another one had the CPU.
    pub waited_ns: u64,
}

impl CpuReading {
    /// Reads the CPU time of a process.
    ///
    /// # Errors
    /// When the process is gone or belongs to somebody else.
    pub fn take(pid: u32) -> io::Result<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may end between the listing and the reading; the coarse count still has it.
            if let Some(times) =
                fs::read_to_string(entry.path().join("schedstat")).ok().and_then(|text| parse_schedstat(&text))
            {
                threads.insert(thread, times);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let ticks = parse_stat(&stat).ok_or_else(|| io::Error::other("/proc/PID/stat has an unknown form"))?;
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        Ok(Self { threads, coarse_ns: ticks * tick_ns })
    }

    /// What was used since an earlier reading of the same process.
    pub fn since(&self, earlier: &Self) -> CpuSpent {
        let mut spent = CpuSpent { busy_ns: 0, waited_ns: 0 };
        for (thread, (busy, waited)) in &self.threads {
            let (busy_before, waited_before) = earlier.threads.get(thread).copied().unwrap_or((0, 0));
            spent.busy_ns += busy.saturating_sub(busy_before);
            spent.waited_ns += waited.saturating_sub(waited_before);
        }
        let one_ended = earlier.threads.keys().any(|thread| !self.threads.contains_key(thread));
        if one_ended || self.threads.is_empty() {
            spent.busy_ns = self.coarse_ns.saturating_sub(earlier.coarse_ns);
        }
        spent
    }
}

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident now.
    pub rss: u64,
    /// The most that ever was resident.
    pub peak: u64,
}

impl Memory {
    /// Reads the memory of a process.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn take(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name| parse_status(&status, name).ok_or_else(|| io::Error::other("/proc/PID/status lacks memory"));
        Ok(Self { rss: field("VmRSS")?, peak: field("VmHWM")? })
    }
}

/// User plus system ticks out of `/proc/PID/stat`. The name of the program, in brackets, may hold anything.
fn parse_stat(text: &str) -> Option<u64> {
    let after_name = text.rsplit_once(')')?.1;
    // utime and stime are fields 14 and 15; the first one after the name is field 3.
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Busy and waiting nanoseconds out of a `schedstat`.
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_ascii_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The bytes of a field such as `VmRSS` out of `/proc/PID/status`.
fn parse_status(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(threads: &[(u32, u64, u64)], coarse_ns: u64) -> CpuReading {
        let threads = threads.iter().map(|(thread, busy, waited)| (*thread, (*busy, *waited))).collect();
        CpuReading { threads, coarse_ns }
    }

    #[test]
    fn a_program_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let text =
            "42 (a) b (c)) S 1 42 42 0 -1 4194304 120 0 0 0 731 269 0 0 20 0 3 0 900 1000 50 18446744073709551615";
        assert_eq!(parse_stat(text), Some(1000));
    }

    #[test]
    fn a_cut_stat_is_refused() {
        assert_eq!(parse_stat("42 (marg) S 1 42"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn schedstat_gives_busy_and_waiting_time() {
        assert_eq!(parse_schedstat("472359373 165014683 114\n"), Some((472_359_373, 165_014_683)));
        assert_eq!(parse_schedstat("472359373"), None);
    }

    #[test]
    fn status_fields_are_bytes_and_matched_whole() {
        let text = "Name:\tmarg\nVmRSSX:\t 7 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(parse_status(text, "VmRSS"), Some(1024 * 1024));
        assert_eq!(parse_status(text, "VmHWM"), Some(2048 * 1024));
        assert_eq!(parse_status(text, "VmSwap"), None);
    }

    #[test]
    fn new_threads_count_in_full() {
        let spent = reading(&[(1, 500, 7), (2, 40, 1)], 0).since(&reading(&[(1, 300, 5)], 0));
        assert_eq!(spent, CpuSpent { busy_ns: 240, waited_ns: 3 });
    }

    #[test]
    fn an_ended_thread_switches_to_the_coarse_count() {
        let spent = reading(&[(1, 500, 0)], 90).since(&reading(&[(1, 300, 0), (2, 40, 0)], 20));
        assert_eq!(spent.busy_ns, 70);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        let first = CpuReading::take(pid).expect("own process");
        let mut sum = 0u64;
        while CpuReading::take(pid).expect("own process").since(&first).busy_ns == 0 {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        let memory = Memory::take(pid).expect("own process");
        assert!(memory.rss > 0 && memory.peak >= memory.rss, "{memory:?} {sum}");
    }
}
