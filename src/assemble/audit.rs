//! The audit log of the running gateway: opened, fed from the journal, signed, watched.
//!
//! The keeper holds the log; while another process has it (during an upgrade) or it cannot be opened, it tries again every
//! second, and the journal keeps what the log must take. So an exchange that was answered is in the journal before its last
//! byte, and in the tree within a second. In the mode `enforce` no exchange is taken while the log cannot be written.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use serde_json::json;
use tokio::sync::watch;

use crate::admin::control::Auditing;
use crate::assemble::Source;
use crate::assemble::core::Core;
use crate::assemble::witnesses::Standings;
use crate::audit::disk::System;
use crate::audit::entry::{Actor, Entry, Event, Noun};
use crate::audit::index;
use crate::audit::key::{KeyError, Purpose, SigningKeys, summary};
use crate::audit::log::{Log, LogError, Settings, Status};
use crate::audit::merkle::sha256;
use crate::audit::policy::{Policy, WitnessKey};
use crate::audit::tail::Taken;
use crate::config::load::Loaded;
use crate::config::{AuditConfig, AuditMode, Config};
use crate::error::StoreError;
use crate::ledger::query::Position;
use crate::ledger::{Consumer, Journal, Line};
use crate::pipeline::{Gateway, attest};
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::Timestamp;
use crate::unit::event;
use crate::unit::secret::Secret;

/// Its name among those who take the journal's lines.
pub(super) const CONSUMER: &str = "audit";

/// How often a log that is not open is tried again.
const OPEN_EVERY: Duration = Duration::from_secs(1);
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
    trouble: Mutex<Option<String>>,
    status: Mutex<Status>,
    tried_at: AtomicI64,
    pruned_at: AtomicI64,
    /// Whether it works, as was last said in the log: 0 not yet, 1 yes, 2 no.
    told: AtomicU8,
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
        let keeper = Self {
            settings,
            keys,
            origin: present.name().to_owned(),
            witnesses: Standings::default(),
            log: ArcSwapOption::empty(),
            opening: Mutex::new(()),
            trouble: Mutex::default(),
            status: Mutex::default(),
            tried_at: AtomicI64::new(0),
            pruned_at: AtomicI64::new(0),
            told: AtomicU8::new(0),
        };
        keeper.open(Timestamp::now());
        Ok(Some(Arc::new(keeper)))
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
            Err(error) => self.set_trouble(Some(error.to_string())),
        }
        self.log()
    }

    fn set_trouble(&self, text: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Why the log cannot be written; `None` while it can. Does not wait for the disk.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Commits and signs what is due, and says when the log stops or begins to work. Blocks on the disk.
    fn tend(&self, config: &AuditConfig, now: Timestamp) -> bool {
        if let Some(log) = self.open(now) {
            // A failure stays in the status until the next call does better.
            if let Err(error) = log.tend(now) {
                tracing::debug!(%error, "the audit log was not written; tried again at once");
            }
            self.prune(&log, config.retention_days, now);
            let status = log.status();
            self.set_trouble(status.failing.clone());
            *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
        }
        let trouble = self.trouble();
        let now_told = if trouble.is_none() { 1 } else { 2 };
        let told = self.told.swap(now_told, Ordering::Relaxed);
        match &trouble {
            Some(cause) if told != 2 => {
                let admission = if config.mode == AuditMode::Enforce { "refused" } else { "goes on" };
                tracing::error!(
                    cause,
                    admission,
                    "ALARM: the audit log cannot be written; the journal keeps its entries"
                );
            }
            None if told == 2 => tracing::info!("the audit log is written again"),
            _ => {}
        }
        trouble.is_none()
    }

    /// Deletes entries past their retention.
    fn prune(&self, log: &Log, days: u32, now: Timestamp) {
        let last = Timestamp(self.pruned_at.load(Ordering::Relaxed));
        if days == 0 || (last <= now && now < last.plus(PRUNE_EVERY)) {
            return;
        }
        self.pruned_at.store(now.micros(), Ordering::Relaxed);
        let Status { pruned, committed, .. } = log.status();
        let before = now.minus(Duration::from_secs(u64::from(days) * 86_400));
        let below = index::older_than((log.folder(), &log.log_folder()), (pruned, committed), before);
        let done = below.map_err(LogError::Tile).and_then(|below| {
            if below > pruned { log.prune(&prune_entry(below, now), below).map(drop) } else { Ok(()) }
        });
        if let Err(error) = done {
            tracing::error!(%error, "audit entries past their retention could not be deleted; tried again in an hour");
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

fn prune_entry(below: u64, now: Timestamp) -> Taken {
    let actor = Actor { kind: "configuration".to_owned(), id: None, label: None, address: None };
    let detail = [("below".to_owned(), below.into())].into_iter().collect();
    let event = Event { at: now, actor, noun: Noun::Prune, verb: "deleted".to_owned(), subject: None, detail };
    Taken::new(&Entry::Event(event), None)
}

/// Takes the journal's lines into the log.
pub struct Feed(pub Arc<Keeper>);

impl Feed {
    /// Does something with the log where blocking is allowed.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Log) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Some(log) = self.0.log() else {
            return Err(StoreError::Away(self.0.trouble().unwrap_or_default().into()));
        };
        let done = tokio::task::spawn_blocking(move || work(&log)).await;
        done.map_err(|error| StoreError::Away(Box::new(error)))?.map_err(StoreError::from)
    }
}

#[async_trait]
impl Consumer for Feed {
    fn name(&self) -> &'static str {
        CONSUMER
    }

    async fn position(&self, segment: &str) -> Result<u64, StoreError> {
        let segment = segment.to_owned();
        self.with(move |log| Ok(log.position(&segment))).await
    }

    async fn take(&self, lines: &[Line], position: &Position) -> Result<(), StoreError> {
        let entries: Vec<Taken> =
            lines.iter().filter_map(attest::entry).map(|entry| Taken::new(&entry, None)).collect();
        let (segment, range) = (position.segment.to_string(), (position.from, position.to));
        self.with(move |log| log.take(&entries, &segment, range)).await
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.with(Log::sync).await
    }

    async fn segments(&self) -> Result<Vec<String>, StoreError> {
        self.with(|log| Ok(log.segments())).await
    }

    async fn forget(&self, segment: &str) -> Result<(), StoreError> {
        let segment = segment.to_owned();
        self.with(move |log| {
            log.forget(&segment);
            Ok(())
        })
        .await
    }
}

/// Keeps the log: commits, checkpoints, retention, and whether exchanges may go on without it.
pub async fn hold(core: Arc<Core>, keeper: Arc<Keeper>, mut stopped: watch::Receiver<bool>) {
    let every = (keeper.settings.interval / 2).max(Duration::from_millis(5));
    loop {
        let config = core.loaded.load().config.audit.clone();
        let tended = keeper.clone();
        let (mode, work) = (config.mode, move || tended.tend(&config, Timestamp::now()));
        let works = tokio::task::spawn_blocking(work).await.unwrap_or(false);
        core.gateway.audit.set(true, !works && mode == AuditMode::Enforce);
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// Writes something that the gateway did to the journal, from where it goes to the log.
fn note(journal: &Journal, event: event::Event) {
    if let Err(error) = journal.append(&Line::Event(event)) {
        tracing::error!(%error, "an event of the gateway could not be written down");
    }
}

/// Notes that the process started, and with what; and lets exchanges in as the log stands.
pub fn begin(gateway: &Gateway, source: &Source, config: &Config, keeper: Option<&Keeper>) {
    if let Some(keeper) = keeper {
        gateway.audit.set(true, config.audit.mode == AuditMode::Enforce && keeper.trouble().is_some());
    }
    let journal = &gateway.journal;
    let detail = json!({
        "version": crate::unit::version::VERSION, "config_sha256": config_hash(source), "process": journal.owner(),
        "audit_mode": config.audit.mode.name(), "kavach_mode": config.kavach.mode.name(),
    });
    note(journal, event::Event::of_gateway("start", detail));
}

/// Notes that the process stops.
pub fn note_stop(journal: &Journal) {
    note(journal, event::Event::of_gateway("stop", json!({"process": journal.owner()})));
}

/// Notes that another configuration is in force, and each mode that it changed.
pub fn note_reload(
    journal: &Journal,
    (source, actor): (&Source, &str),
    (before, after): (&Config, &Config),
    changed: &[String],
) {
    if changed.is_empty() {
        return;
    }
    let detail = json!({"changed": changed, "config_sha256": config_hash(source)});
    note(
        journal,
        event::Event { noun: "config".to_owned(), actor: actor.into(), ..event::Event::of_gateway("reload", detail) },
    );
    let modes = [
        ("audit", before.audit.mode.name(), after.audit.mode.name()),
        ("kavach", before.kavach.mode.name(), after.kavach.mode.name()),
    ];
    for (subject, from, to) in modes.into_iter().filter(|(_, from, to)| from != to) {
        let event = event::Event::of_gateway("change", json!({"from": from, "to": to}));
        note(
            journal,
            event::Event { noun: "mode".to_owned(), subject: Some(subject.to_owned()), actor: actor.into(), ..event },
        );
    }
}

/// What `sha256sum` says of the configuration file; `None` if there is none.
fn config_hash(source: &Source) -> Option<String> {
    let Source::File(path) = source else { return None };
    hash_of(path)
}

fn hash_of(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| sha256(&[&bytes]).hex())
}
