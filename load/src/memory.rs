//! The scenarios that look at memory and starting: each uses fresh processes, because memory remembers what was before.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::clock::now_ns;
use crate::exchange::{Meter, Tally};
use crate::fleet::{Recipe, first_answer};
use crate::machine::Cores;
use crate::proc::{CpuReading, Memory};
use crate::request::Ask;
use crate::statistics::Spread;
use crate::target::{Target, ask};

/// Connections held open without a request.
pub const IDLE_CONNECTIONS: u64 = 1000;
/// Clients that do not read.
pub const SLOW_READERS: usize = 100;

/// Starting, resting, and being connected to.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// Milliseconds from start to first answer, over several starts.
    pub start_ms: Spread,
    /// Resident bytes one second after the first answer.
    pub rss_idle: u64,
    /// CPU microseconds in one second without any request.
    pub idle_cpu_us_per_second: f64,
    /// Resident bytes after 1,000 requests on one connection.
    pub rss_warm: u64,
    /// Resident bytes with 1,000 idle connections that had one request each.
    pub rss_connected: u64,
    /// Bytes for each of them.
    pub bytes_per_connection: u64,
    /// Resident bytes after they went away.
    pub rss_after: u64,
    /// Whether it ended with exit code 0 when asked to (each time). The empty Pingora does not promise it.
    pub clean_exit: bool,
}

/// Readers that do not read.
#[derive(Clone, Debug, Serialize)]
pub struct Slow {
    /// Resident bytes before.
    pub rss_before: u64,
    /// Resident bytes once every stream had begun and one second had passed.
    pub rss_stalled: u64,
    /// The most resident bytes after that.
    pub rss_most: u64,
    /// Resident bytes at the end of the time, with the streams still open.
    pub rss_end: u64,
    /// Resident bytes one second after the readers left.
    pub rss_after: u64,
    /// How long the readers refused to read, in seconds.
    pub seconds: f64,
}

/// A gateway that knows many keys.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Keys {
    /// How many were added.
    pub count: u64,
    /// Resident bytes at rest without them.
    pub rss_before: u64,
    /// Resident bytes at rest with them, after a start.
    pub rss_with: u64,
    /// Bytes for each of them.
    pub bytes_per_key: u64,
    /// Milliseconds from that start to the first answer.
    pub start_ms: f64,
}

/// No key fits into less: its hash and its id. Less than that means that the keys were not read.
const LEAST_BYTES_PER_KEY: u64 = 62;

impl Keys {
    /// What so many keys take.
    ///
    /// # Errors
    /// When they take less than they can, so that they were not there.
    fn of(count: u64, (rss_before, rss_with): (u64, u64), start: Duration) -> anyhow::Result<Self> {
        let bytes_per_key = rss_with.saturating_sub(rss_before) / count.max(1);
        ensure!(
            bytes_per_key >= LEAST_BYTES_PER_KEY,
            "{count} keys take {rss_before} → {rss_with} bytes: they were not read"
        );
        Ok(Self { count, rss_before, rss_with, bytes_per_key, start_ms: start.as_secs_f64() * 1000.0 })
    }
}

/// Measures the memory of many keys: a start without them, then one with them, each at rest for a second. `add` puts them where
/// the target finds them; it is called between the two starts.
///
/// # Errors
/// When the target does not start, or does not read them.
pub fn keys(
    recipe: &Recipe,
    folder: &Path,
    cores: &Cores,
    count: u64,
    add: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Keys> {
    let (rss_before, _) = resting(recipe, folder, cores)?;
    add()?;
    let (rss_with, start) = resting(recipe, folder, cores)?;
    Keys::of(count, (rss_before, rss_with), start)
}

/// Starts a target, lets it rest, and ends it; gives its resident bytes and how long it took to start.
fn resting(recipe: &Recipe, folder: &Path, cores: &Cores) -> anyhow::Result<(u64, Duration)> {
    let mut running = recipe.start(folder, cores)?;
    let pid = running.target.pid.context("the scenario keys needs a pid")?;
    thread::sleep(Duration::from_secs(1));
    let (rss, start) = (Memory::take(pid)?.rss, running.start_time);
    running.ensure_alive()?;
    running.stop()?;
    Ok((rss, start))
}

/// Measures starting, resting and idle connections.
///
/// # Errors
/// When the target does not start or does not answer.
pub fn idle(recipe: &Recipe, folder: &Path, cores: &Cores, starts: usize) -> anyhow::Result<Idle> {
    let mut times = Vec::new();
    let mut clean_exit = true;
    for _ in 1..starts {
        let running = recipe.start(folder, cores)?;
        times.push(running.start_time.as_secs_f64() * 1000.0);
        clean_exit &= running.stop()?;
    }
    let mut running = recipe.start(folder, cores)?;
    times.push(running.start_time.as_secs_f64() * 1000.0);
    let mut measured = rest(&running.target)?;
    measured.start_ms = Spread::of(times).context("there was a start")?;
    running.ensure_alive()?;
    measured.clean_exit = clean_exit & running.stop()?;
    Ok(measured)
}

fn rest(target: &Target) -> anyhow::Result<Idle> {
    let pid = target.pid.context("the scenario idle needs a pid")?;
    thread::sleep(Duration::from_secs(1));
    let (rss_idle, before, from_ns) = (Memory::take(pid)?.rss, CpuReading::take(pid)?, now_ns());
    thread::sleep(Duration::from_secs(1));
    let busy_us = CpuReading::take(pid)?.since(&before).busy_ns as f64 / 1000.0;
    let idle_cpu_us_per_second = busy_us * 1e9 / (now_ns() - from_ns) as f64;
    let mut one = target.connect()?;
    for _ in 0..IDLE_CONNECTIONS {
        touch(&mut one, target)?;
    }
    let rss_warm = Memory::take(pid)?.rss;
    let mut connections = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let mut stream = target.connect()?;
        touch(&mut stream, target)?;
        connections.push(stream);
    }
    thread::sleep(Duration::from_secs(1));
    let rss_connected = Memory::take(pid)?.rss;
    // The oldest must still work: a target that closes idle connections would look thrifty.
    connections.first_mut().map_or(Ok(()), |stream| touch(stream, target)).context("the first idle connection")?;
    drop(connections);
    thread::sleep(Duration::from_secs(1));
    Ok(Idle {
        start_ms: Spread::default(),
        rss_idle,
        idle_cpu_us_per_second,
        rss_warm,
        rss_connected,
        bytes_per_connection: rss_connected.saturating_sub(rss_warm) / IDLE_CONNECTIONS,
        rss_after: Memory::take(pid)?.rss,
        clean_exit: true,
    })
}

fn touch(stream: &mut TcpStream, target: &Target) -> anyhow::Result<()> {
    let request = Ask::Chat { prompt_bytes: 900, delay_ms: 0 }.of(target);
    ask(stream, &request, now_ns(), &Meter::default(), &mut Tally::default()).map(drop)
}

/// Measures memory while clients ask for streams of 100 MB and do not read them.
///
/// # Errors
/// When the target does not start, does not answer, or does not begin each stream.
pub fn slow(recipe: &Recipe, folder: &Path, cores: &Cores, time: Duration) -> anyhow::Result<Slow> {
    let mut running = recipe.start(folder, cores)?;
    let measured = refuse_to_read(&running.target, time)?;
    running.ensure_alive()?;
    first_answer(&running.target).context("a request after the slow readers had left")?;
    running.stop()?;
    Ok(measured)
}

fn refuse_to_read(target: &Target, time: Duration) -> anyhow::Result<Slow> {
    let pid = target.pid.context("the scenario slow needs a pid")?;
    let request = Ask::Stream { deltas: 100_000, pace_ms: 0, size: 1000 }.of(target);
    let rss_before = Memory::take(pid)?.rss;
    let mut readers = Vec::new();
    for _ in 0..SLOW_READERS {
        let mut stream = target.connect()?;
        stream.write_all(&request.bytes)?;
        let mut beginning = [0; 512];
        stream.read_exact(&mut beginning).context("the beginning of a stream")?;
        anyhow::ensure!(beginning.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&beginning));
        readers.push(stream);
    }
    thread::sleep(Duration::from_secs(1));
    let rss_stalled = Memory::take(pid)?.rss;
    let (mut rss_most, mut rss_end) = (rss_stalled, rss_stalled);
    let from_ns = now_ns();
    while now_ns() < from_ns + u64::try_from(time.as_nanos())? {
        thread::sleep(Duration::from_millis(200));
        rss_end = Memory::take(pid)?.rss;
        rss_most = rss_most.max(rss_end);
    }
    let seconds = (now_ns() - from_ns) as f64 / 1e9 + 1.0;
    drop(readers);
    thread::sleep(Duration::from_secs(1));
    Ok(Slow { rss_before, rss_stalled, rss_most, rss_end, rss_after: Memory::take(pid)?.rss, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_were_not_read_are_no_measurement() {
        let mib = 1 << 20;
        assert!(Keys::of(100_000, (30 * mib, 31 * mib), Duration::ZERO).is_err());
        assert!(Keys::of(100_000, (30 * mib, 20 * mib), Duration::ZERO).is_err());
        let keys = Keys::of(100_000, (30 * mib, 100 * mib), Duration::from_millis(1500)).ok();
        assert_eq!(keys.map(|keys| (keys.bytes_per_key, keys.start_ms)), Some((734, 1500.0)));
    }
}
