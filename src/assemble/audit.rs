//! The audit log of the running gateway: opened, fed from the journal, signed, watched.
//!
//! The keeper holds the log; while another process has it (during an upgrade) or it cannot be opened, it tries again every
//! second, and the journal keeps what the log must take. So an exchange that was answered is in the journal before its last
//! byte, and in the tree within a second. In the mode `enforce` no exchange is taken while the log cannot be written; a log that
//! another process still writes stops nobody, as the journal is there for that, or an upgrade would refuse what it could serve
//! (`an_upgrade_in_enforce_mode_refuses_nobody`).

mod feed;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::admin::control::Auditing;
use crate::assemble::alarm::{self, Alarms, What};
use crate::assemble::core::Core;
use crate::assemble::webhook;
use crate::assemble::witnesses::Standings;
use crate::audit::disk::System;
use crate::audit::entry::{Actor, Entry, Event, Noun};
use crate::audit::index;
use crate::audit::key::{KeyError, Purpose, SigningKeys, summary};
use crate::audit::log::{Log, LogError, Settings, Status};
use crate::audit::policy::{Policy, WitnessKey};
use crate::audit::tail::Taken;
use crate::audit::texts::Texts;
use crate::config::load::Loaded;
use crate::config::{AuditConfig, AuditMode, Config};
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::Timestamp;
use crate::unit::secret::Secret;

pub use feed::Feed;

/// Its name among those who take the journal's lines.
pub(super) const CONSUMER: &str = "audit";

/// How often a log that is not open is tried again.
const OPEN_EVERY: Duration = Duration::from_secs(1);
/// How often what is wrong is looked for while the disk does not answer.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// A log that was not tended, or not signed, for so long and for ten intervals is in trouble.
const LATE: Duration = Duration::from_secs(5);
/// How long another process may keep the log, while it ends, without an alarm.
const HANDOVER: Duration = Duration::from_secs(60);
/// How long witnesses may be behind: they are asked every second, and again after ten.
const UNWITNESSED: Duration = Duration::from_secs(60);
/// How often entries past their retention are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// Where the keys are.
struct Keys {
    key: Option<Secret>,
    next: Option<Secret>,
    passphrase: Option<Secret>,
    file: PathBuf,
}

impl Keys {
    fn next_file(&self) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(".next");
        PathBuf::from(name)
    }

    /// The present keys, and those to go over to if there are any. About 0.4 s if they are wrapped.
    fn load(&self) -> Result<(SigningKeys, Option<SigningKeys>), KeyError> {
        let passphrase = self.passphrase.as_ref();
        let open = |text: &Secret| SigningKeys::open(text.expose(), Purpose::Log, passphrase);
        let key = match &self.key {
            Some(text) => open(text)?,
            None => SigningKeys::load(&self.file, Purpose::Log, passphrase)?,
        };
        let next = match (&self.next, self.next_file()) {
            (Some(text), _) => Some(open(text)?),
            (None, file) if self.key.is_none() && file.exists() => {
                Some(SigningKeys::load(&file, Purpose::Log, passphrase)?)
            }
            _ => None,
        };
        Ok((key, next))
    }

    /// Puts the file of the keys that now sign in the place of those before, which nobody needs any more.
    fn settle(&self, next: &SigningKeys) {
        if self.next.is_some() || self.key.is_some() {
            return;
        }
        if let Err(error) = std::fs::rename(self.next_file(), &self.file) {
            tracing::warn!(%error, origin = next.name(), "the next key file cannot take the place of the present one");
        }
    }
}

/// Why the log cannot be written.
#[derive(Clone, Debug)]
struct Trouble {
    text: String,
    /// Since when another process has it, if that is why: it will be free, and until then the journal keeps everything.
    held_since: Option<Timestamp>,
}

/// Holds the log.
pub struct Keeper {
    settings: Settings,
    keys: Keys,
    origin: String,
    /// How the witnesses that are asked stand.
    pub(super) witnesses: Standings,
    log: ArcSwapOption<Log>,
    /// Held while the log is being opened.
    opening: Mutex<()>,
    /// Why it cannot be written, and how it stood, when it was last tended: whoever asks must not wait for the disk.
    trouble: Mutex<Option<Trouble>>,
    status: Mutex<Status>,
    tried_at: AtomicI64,
    pruned_at: AtomicI64,
    /// When the log was last tended to the end; a disk that hangs shows here.
    tended_at: AtomicI64,
    /// What the witnesses cosigned, and when that last moved or was all there was.
    cosigned: Mutex<(u64, Option<Timestamp>)>,
    alarms: Alarms,
}

/// The name of the log, or the one that it would have.
///
/// # Errors
/// When the name of the node cannot be read.
pub fn origin(keeper: Option<&Keeper>, config: &Config) -> anyhow::Result<String> {
    if let Some(keeper) = keeper {
        return Ok(keeper.origin.clone());
    }
    new_origin(config)
}

/// The name of a log that is begun.
fn new_origin(config: &Config) -> anyhow::Result<String> {
    if let Some(origin) = &config.audit.origin {
        return Ok(origin.clone());
    }
    let node = std::fs::read_to_string(config.data_dir.join("node.id"));
    Ok(format!("marg/{}", node.context("the name of the node cannot be read")?.trim()))
}

/// Where the log is.
pub fn folder(config: &Config) -> PathBuf {
    config.audit.folder.clone().unwrap_or_else(|| config.data_dir.join("audit"))
}

/// Makes the key file of a new log, unless there is one or keys come by reference; its public keys then.
///
/// # Errors
/// When it cannot be made, or there is a log whose key is gone.
pub fn make_key(config: &Config, passphrase: Option<&Secret>) -> anyhow::Result<Option<(PathBuf, Vec<String>)>> {
    let AuditConfig { enabled, key, .. } = &config.audit;
    let file = config.data_dir.join("audit.key");
    if !enabled || key.is_some() {
        return Ok(None);
    }
    if !file.exists() {
        let folder = folder(config);
        anyhow::ensure!(
            !folder.join("state").exists() && !folder.join("log/checkpoint").exists(),
            "{} is missing, but there is an audit log in {} that it signed; put it back, or begin a new log in another folder \
             (audit.folder)",
            file.display(),
            folder.display()
        );
        let keys = SigningKeys::create(Purpose::Log, &new_origin(config)?, Timestamp::now())?;
        match keys.save(&file, passphrase) {
            // Another process may have been quicker.
            Err(KeyError::File(_, error)) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            saved => saved?,
        }
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Some((file, summary(&text)?.public)))
}

impl Keeper {
    /// The keeper of the log that the configuration names, opened if it can be; `None` if it wants none.
    ///
    /// # Errors
    /// When the keys cannot be used.
    pub fn start(loaded: &Loaded) -> anyhow::Result<Option<Arc<Self>>> {
        let config = &loaded.config.audit;
        if !config.enabled {
            return Ok(None);
        }
        make_key(&loaded.config, loaded.audit.passphrase.as_ref()).context("the key of the audit log")?;
        let keys = Keys {
            key: loaded.audit.key.clone(),
            next: loaded.audit.next_key.clone(),
            passphrase: loaded.audit.passphrase.clone(),
            file: loaded.config.data_dir.join("audit.key"),
        };
        let (present, _) = keys.load().context("the key of the audit log (audit.key)")?;
        let witness = |one: &crate::config::WitnessConfig| WitnessKey {
            name: one.name.clone(),
            key: one.key.clone(),
            url: one.url.clone(),
        };
        let settings = Settings {
            folder: folder(&loaded.config),
            interval: Duration::from_millis(config.interval_ms),
            policy: Policy::default().with_witnesses(config.witnesses.iter().map(witness).collect(), config.quorum),
        };
        let keeper = Self::new(settings, keys, present.name().to_owned(), Timestamp::now());
        keeper.open(Timestamp::now());
        Ok(Some(Arc::new(keeper)))
    }

    /// A keeper that has not opened its log yet.
    fn new(settings: Settings, keys: Keys, origin: String, now: Timestamp) -> Self {
        Self {
            settings,
            keys,
            origin,
            witnesses: Standings::default(),
            log: ArcSwapOption::empty(),
            opening: Mutex::new(()),
            trouble: Mutex::default(),
            status: Mutex::default(),
            tried_at: AtomicI64::new(0),
            pruned_at: AtomicI64::new(0),
            tended_at: AtomicI64::new(now.micros()),
            cosigned: Mutex::default(),
            alarms: Alarms::default(),
        }
    }

    /// The log, if it is open.
    pub fn log(&self) -> Option<Arc<Log>> {
        self.log.load_full()
    }

    /// Opens the log, if it is not and was not just tried.
    fn open(&self, now: Timestamp) -> Option<Arc<Log>> {
        if let Some(log) = self.log() {
            return Some(log);
        }
        let _alone = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let tried = Timestamp(self.tried_at.load(Ordering::Relaxed));
        if self.log().is_some() || (tried <= now && now < tried.plus(OPEN_EVERY)) {
            return self.log();
        }
        self.tried_at.store(now.micros(), Ordering::Relaxed);
        let opened = self.keys.load().map_err(LogError::Key).and_then(|(keys, next)| {
            let goes_over = next.is_some();
            let log = Log::open(self.settings.clone(), keys, next, Arc::new(System), now)?;
            Ok((log, goes_over))
        });
        match opened {
            Ok((log, goes_over)) => {
                if goes_over && let Ok((_, Some(next))) = self.keys.load() {
                    self.keys.settle(&next);
                }
                self.log.store(Some(Arc::new(log)));
                self.set_trouble(None);
            }
            Err(error) => {
                let since = self.present().and_then(|trouble| trouble.held_since);
                let held_since = matches!(error, LogError::Busy(_)).then(|| since.unwrap_or(now));
                self.set_trouble(Some(Trouble { text: error.to_string(), held_since }));
            }
        }
        self.log()
    }

    fn set_trouble(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn present(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the log cannot be written; `None` while it can. Does not wait for the disk.
    pub fn trouble(&self) -> Option<String> {
        self.present().map(|trouble| trouble.text)
    }

    /// Whether a log that must be written cannot be: one that another process still has is none. Does not wait for the disk.
    pub fn fails(&self) -> bool {
        self.present().is_some_and(|trouble| trouble.held_since.is_none())
    }

    /// Commits and signs what is due. Blocks on the disk.
    fn tend(&self, config: &AuditConfig, now: Timestamp) {
        if let Some(log) = self.open(now) {
            // A failure stays in the status until the next call does better.
            if let Err(error) = log.tend(now) {
                tracing::debug!(%error, "the audit log was not written; tried again at once");
            }
            self.retire(&log, config, now);
            let status = log.status();
            self.set_trouble(status.failing.clone().map(|text| Trouble { text, held_since: None }));
            *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
        }
        self.tended_at.store(Timestamp::now().micros(), Ordering::Relaxed);
    }

    /// Raises and clears alarms as things stand; whether exchanges can go on without fear for their entries. Does not wait for
    /// the disk.
    fn watch(&self, now: Timestamp) -> bool {
        let late = now.minus(self.settings.interval.saturating_mul(10).max(LATE));
        let hangs = || "the disk does not answer".to_owned();
        let stuck = Timestamp(self.tended_at.load(Ordering::Relaxed)) < late;
        let present = self.present();
        let held_since = present.as_ref().and_then(|trouble| trouble.held_since);
        let handed_over = held_since.is_some_and(|since| now < since.plus(HANDOVER));
        let trouble = present.filter(|_| !handed_over).map(|trouble| trouble.text).or_else(|| stuck.then(hangs));
        let works = !stuck && (trouble.is_none() || held_since.is_some());
        self.alarms.set(What::Writing, trouble);
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unsigned = status.size.saturating_sub(status.published);
        let overdue = works && unsigned > 0 && status.published_at.is_some_and(|at| at < late);
        self.alarms.set(What::Checkpoint, overdue.then(|| format!("{unsigned} entries are under no checkpoint")));
        let unwitnessed = self.unwitnessed_since(&status, now).is_some_and(|since| since < now.minus(UNWITNESSED));
        let cause = || format!("{} of {} entries are witnessed", status.witnessed, status.published);
        self.alarms.set(What::Witnesses, unwitnessed.then(cause));
        works
    }

    /// Since when the witnesses are behind; `None` while they are not, or none are asked for.
    fn unwitnessed_since(&self, status: &Status, now: Timestamp) -> Option<Timestamp> {
        if !self.settings.policy.asks_for_witnesses() {
            return None;
        }
        let mut cosigned = self.cosigned.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match *cosigned {
            _ if status.witnessed >= status.published => None,
            (size, since) if size == status.witnessed => since.or(Some(now)),
            _ => Some(now),
        };
        *cosigned = (status.witnessed, since);
        since
    }

    /// Where the log is.
    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }

    /// What is wrong with the log, told to whoever must know.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Deletes entries, texts and salts past their retention, once an hour.
    fn retire(&self, log: &Log, config: &AuditConfig, now: Timestamp) {
        let last = Timestamp(self.pruned_at.load(Ordering::Relaxed));
        if last <= now && now < last.plus(PRUNE_EVERY) {
            return;
        }
        self.pruned_at.store(now.micros(), Ordering::Relaxed);
        let before = |days: u32| (days > 0).then(|| now.minus(Duration::from_secs(u64::from(days) * 86_400)));
        let entries = before(config.retention_days).map_or(Ok(()), |before| prune_entries(log, before, now));
        let texts = before(config.text_retention_days)
            .map_or(Ok(()), |before| Texts::of(log.folder()).prune(before).map(drop).map_err(LogError::Disk));
        let salts = before(config.salt_retention_days).map_or(Ok(()), |before| prune_salts(log, before, now));
        for (what, done) in [("entries", entries), ("texts", texts), ("salts", salts)] {
            if let Err(error) = done {
                tracing::error!(%error, what, "what is past its retention could not be deleted; tried again in an hour");
            }
        }
    }

    /// Commits and signs everything, at the end of the process.
    pub fn finish(&self) {
        let Some(log) = self.log() else { return };
        if let Err(error) = log.finish(Timestamp::now()) {
            tracing::error!(%error, "the end of the audit log was not signed; the journal has it for the next start");
        }
    }

    /// What operators see.
    pub fn view(&self, config: &AuditConfig) -> Auditing {
        Auditing {
            log: self.log(),
            trouble: self.trouble(),
            alarms: self.alarms.words(),
            enforced: config.mode == AuditMode::Enforce,
            open_tiles: config.open_tiles,
            witnesses: self.witnesses.all(),
        }
    }

    /// Brings the metrics up to date.
    pub fn measure(&self) {
        METRICS.audit_working.set(i64::from(self.trouble().is_none()));
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        METRICS.audit_entries.set(number(status.size));
        METRICS.audit_unsigned.set(number(status.size.saturating_sub(status.published)));
        METRICS.audit_witnessed.set(number(status.witnessed));
        METRICS.audit_failures.set(number(status.failures));
        let now = Timestamp::now();
        let age = status.published_at.map_or(0, |at| now.micros().saturating_sub(at.micros()) / 1_000_000);
        METRICS.audit_checkpoint_age.set(age.max(0));
    }
}

fn prune_entries(log: &Log, before: Timestamp, now: Timestamp) -> Result<(), LogError> {
    let Status { pruned, committed, .. } = log.status();
    let below = index::older_than((log.folder(), &log.log_folder()), (pruned, committed), before)?;
    if below > pruned {
        log.prune(&retired(Noun::Prune, "deleted", ("below", below), now), below)?;
    }
    Ok(())
}

fn prune_salts(log: &Log, before: Timestamp, now: Timestamp) -> Result<(), LogError> {
    let Status { pruned, committed, .. } = log.status();
    let below = index::older_than((log.folder(), &log.log_folder()), (pruned, committed), before)?;
    if log.prune_salts((pruned, below))? > 0 {
        log.record(&[retired(Noun::Erasure, "erased", ("salts_below", below), now)])?;
    }
    Ok(())
}

/// The entry that says what the configuration let go.
fn retired(noun: Noun, verb: &str, (name, below): (&str, u64), now: Timestamp) -> Taken {
    let actor = Actor { kind: "configuration".to_owned(), id: None, label: None, address: None };
    let detail = [(name.to_owned(), below.into())].into_iter().collect();
    Taken::new(&Entry::Event(Event { at: now, actor, noun, verb: verb.to_owned(), subject: None, detail }), None)
}

/// Keeps the log: commits, checkpoints, retention, alarms, and whether exchanges may go on without it.
pub async fn hold(core: Arc<Core>, keeper: Arc<Keeper>, stopped: watch::Receiver<bool>) {
    let (hook, alarms) = (core.clone(), keeper.alarms.events());
    let hook = move || hook.loaded.load().webhook.clone();
    let posted = webhook::run(alarms, alarm::document, hook, stopped.clone());
    tokio::join!(tend(core, keeper.clone(), stopped), posted);
}

async fn tend(core: Arc<Core>, keeper: Arc<Keeper>, mut stopped: watch::Receiver<bool>) {
    let every = (keeper.settings.interval / 2).max(Duration::from_millis(5));
    let mut compared = false;
    loop {
        if let Some(log) = keeper.log().filter(|_| !compared) {
            let journal = core.gateway.journal.clone();
            let done = tokio::task::spawn_blocking(move || feed::note_lost_segments(&log, &journal)).await;
            if let Err(error) = done.map_err(std::io::Error::other).flatten() {
                tracing::warn!(%error, "the journal cannot be compared with the audit log; the next start does it");
            }
            compared = true;
        }
        let config = core.loaded.load().config.audit.clone();
        let (tended, mode) = (keeper.clone(), config.mode);
        let mut work = tokio::task::spawn_blocking(move || tended.tend(&config, Timestamp::now()));
        loop {
            // While a disk hangs nobody but the clock says so.
            let done = tokio::time::timeout(WATCH_EVERY, &mut work).await.is_ok();
            let works = keeper.watch(Timestamp::now());
            core.gateway.audit.set(true, !works && mode == AuditMode::Enforce);
            if done {
                break;
            }
        }
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::note::PublicKey;

    /// A keeper that is never tended, whose policy asks for one witness.
    fn keeper() -> Keeper {
        let key = "witness.example.com+94947cf1+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
        let witness = WitnessKey { name: "w".to_owned(), key: PublicKey::parse(key).unwrap(), url: None };
        let settings = Settings {
            folder: PathBuf::from("/nowhere"),
            interval: Duration::from_millis(250),
            policy: Policy::default().with_witnesses(vec![witness], 1),
        };
        let keys = Keys { key: None, next: None, passphrase: None, file: PathBuf::from("/nowhere/key") };
        Keeper::new(settings, keys, "marg.example/1".to_owned(), Timestamp(0))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp(second * 1_000_000)
    }

    /// What is wrong at a second, if the log was tended then and stands like this.
    fn wrong(keeper: &Keeper, second: i64, (size, published, witnessed): (u64, u64, u64)) -> Vec<&'static str> {
        keeper.tended_at.store(at(second).micros(), Ordering::Relaxed);
        let published_at = Some(at(100));
        *keeper.status.lock().unwrap() = Status { size, published, published_at, witnessed, ..Status::default() };
        keeper.watch(at(second));
        keeper.alarms.words()
    }

    #[test]
    fn entries_that_nobody_signs_raise_an_alarm_until_somebody_does() {
        let keeper = keeper();
        assert!(wrong(&keeper, 104, (5, 2, 2)).is_empty(), "a moment is nothing");
        assert_eq!(wrong(&keeper, 106, (5, 2, 2)), ["checkpoint"]);
        assert!(wrong(&keeper, 107, (5, 5, 5)).is_empty());
        assert!(wrong(&keeper, 999, (5, 5, 5)).is_empty(), "without entries no checkpoint is needed");
    }

    #[test]
    fn a_disk_that_does_not_answer_raises_an_alarm() {
        let keeper = keeper();
        assert!(wrong(&keeper, 104, (5, 5, 5)).is_empty());
        assert!(!keeper.watch(at(110)), "calls may be refused");
        assert_eq!(keeper.alarms.words(), ["writing"]);
        assert!(wrong(&keeper, 111, (5, 5, 5)).is_empty());
    }

    #[test]
    fn a_log_that_another_process_has_stops_nobody_and_is_told_of_after_a_minute() {
        let keeper = keeper();
        assert!(wrong(&keeper, 100, (5, 5, 5)).is_empty());
        keeper.set_trouble(Some(Trouble { text: "another process".to_owned(), held_since: Some(at(100)) }));
        assert!(!keeper.fails() && keeper.watch(at(101)));
        assert!(wrong(&keeper, 159, (5, 5, 5)).is_empty());
        assert_eq!(wrong(&keeper, 160, (5, 5, 5)), ["writing"]);
        assert!(keeper.watch(at(160)), "calls go on");
        keeper.set_trouble(Some(Trouble { text: "a full disk".to_owned(), held_since: None }));
        assert!(keeper.fails() && !keeper.watch(at(160)));
    }

    #[test]
    fn witnesses_that_stay_behind_raise_an_alarm_and_slow_ones_do_not() {
        let keeper = keeper();
        for second in 100_i64..300 {
            // Always a second behind.
            let size = second.unsigned_abs();
            assert!(wrong(&keeper, second, (size, size, size - 1)).is_empty(), "{second}");
        }
        assert!(wrong(&keeper, 359, (400, 400, 298)).is_empty());
        assert_eq!(wrong(&keeper, 361, (400, 400, 298)), ["witnesses"]);
        assert!(wrong(&keeper, 362, (400, 400, 399)).is_empty());
    }
}
