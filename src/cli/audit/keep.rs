//! `marg audit prune`, `erase`, `archive` and `index`: what is done to a log that grows.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::audit::archive;
use crate::audit::disk::System;
use crate::audit::entry::{Actor, Entry, Event, Noun};
use crate::audit::erase::{self, Erased};
use crate::audit::index::{self, Filter};
use crate::audit::key::{Purpose, SigningKeys};
use crate::audit::log::{Log, Settings};
use crate::audit::policy::Policy;
use crate::audit::tail::{LOG, Taken};
use crate::audit::tiles::WIDTH;
use crate::cli::audit::find::{Whose, range};
use crate::cli::audit::key;
use crate::cli::failure::{Failure, Result};
use crate::cli::output;
use crate::cli::{Common, complain};
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;

/// What is deleted.
#[derive(Debug, Args)]
pub struct Prune {
    /// Entries before this time go, in whole bundles of 256.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    before: Timestamp,
    #[command(flatten)]
    closed: Closed,
}

/// A log that no gateway writes at present.
#[derive(Debug, Args)]
pub struct Closed {
    /// The file with the log's keys, as the change is itself an entry; `data/audit.key` when left out.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A file whose content is the passphrase of the keys.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The audit folder.
    #[arg(long, value_name = "FOLDER", default_value = "data/audit")]
    folder: PathBuf,
}

/// Whose texts; every flag that is given must match, and one must be given. With --server a running gateway does it, without it
/// the gateway must not be running.
#[derive(Debug, Args)]
pub struct Erase {
    /// One exchange.
    #[arg(long, value_name = "ID")]
    exchange: Option<ExchangeId>,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    closed: Closed,
}

/// Where old files go.
#[derive(Debug, Args)]
pub struct Archive {
    /// The folder to move them to, such as a mounted bucket; it may become read-only afterwards.
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// So many of the newest entries stay where they are.
    #[arg(long, value_name = "COUNT", default_value_t = 65_536)]
    keep: u64,
    /// The audit folder.
    #[arg(long, value_name = "FOLDER", default_value = "data/audit")]
    folder: PathBuf,
}

/// What to do with the index.
#[derive(Debug, Subcommand)]
pub enum Index {
    /// Make it again from the log. The gateway may be running.
    Rebuild(Rebuild),
}

/// Whose index.
#[derive(Debug, Args)]
pub struct Rebuild {
    /// The audit folder.
    #[arg(long, value_name = "FOLDER", default_value = "data/audit")]
    folder: PathBuf,
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(format!("{error}."))
}

impl Closed {
    /// Opens the log to change it.
    fn open(&self, now: Timestamp) -> Result<Log> {
        let file = self.key_file.as_deref().unwrap_or(Path::new("data/audit.key"));
        let passphrase = self.passphrase_file.as_deref().map(key::secret).transpose()?;
        let keys = SigningKeys::load(file, Purpose::Log, passphrase.as_ref()).map_err(|error| failed(&error))?;
        let settings = Settings { folder: self.folder.clone(), interval: Duration::ZERO, policy: Policy::default() };
        Log::open(settings, keys, None, Arc::new(System), now).map_err(|error| failed(&error))
    }
}

fn entry((noun, verb): (Noun, &str), detail: Map<String, Value>, now: Timestamp) -> Taken {
    let actor = Actor { kind: "command_line".to_owned(), id: None, label: None, address: None };
    Taken::new(&Entry::Event(Event { at: now, actor, noun, verb: verb.to_owned(), subject: None, detail }), None)
}

/// Deletes entries.
pub fn prune(prune: &Prune) -> Result {
    let Prune { before, closed } = prune;
    let (folder, now) = (&closed.folder, Timestamp::now());
    let (first, size) = range(folder)?;
    let below =
        index::older_than((folder, &folder.join(LOG)), (first, size), *before).map_err(|error| failed(&error))?;
    let log = closed.open(now)?;
    let detail = Map::from_iter([("below".to_owned(), Value::from(below))]);
    let below = log.prune(&entry((Noun::Prune, "deleted"), detail, now), below).map_err(|error| failed(&error))?;
    log.finish(now).map_err(|error| failed(&error))?;
    output::line(&format!("Entries below {below} are deleted; their hashes stay."))
}

/// Erases salts and texts.
pub async fn erase(erase: &Erase, common: &Common) -> Result {
    let Erase { exchange, whose, closed } = erase;
    let all = whose.asked().into_iter().chain([("exchange", exchange.map(|id| id.to_string()))]);
    let asked: Map<String, Value> =
        all.filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?)))).collect();
    if asked.is_empty() {
        return Err(Failure::usage(
            "Say what is to be erased: --exchange, --key, --org, --team, --user, --since or --until.",
        ));
    }
    if common.server.is_some() {
        let answer = common.door()?.ask(Method::POST, "/admin/audit/erase", Some(&Value::Object(asked))).await?;
        return output::item(common.output, &answer);
    }
    let filter = Filter { id: exchange.map(|id| id.0), ..whose.filter() };
    let now = Timestamp::now();
    let log = closed.open(now)?;
    // As with a running gateway: one entry before it is done, one after.
    let note = |phase: &str, detail: Value| {
        let detail = Map::from_iter([("phase".to_owned(), Value::from(phase)), ("detail".to_owned(), detail)]);
        log.record(&[entry((Noun::Erasure, "erase"), detail, now)]).map_err(|error| failed(&error))
    };
    note("begun", Value::Object(asked))?;
    let Erased { exchanges, salts, texts } = erase::erase(&log, &filter).map_err(|error| failed(&error))?;
    let done = json!({"exchanges": exchanges, "salts": salts, "texts": texts});
    note("done", done.clone())?;
    log.finish(now).map_err(|error| failed(&error))?;
    if let Some(journal) = waiting(&closed.folder) {
        complain(&format!(
            "The journal in {} holds lines that may not be in the log yet, and nothing of them was erased. Start the gateway and \
             erase again with --server, which waits for them.",
            journal.display()
        ));
    }
    output::item(common.output, &done)
}

/// The journal beside the audit folder, if it holds anything.
fn waiting(folder: &Path) -> Option<PathBuf> {
    let journal = folder.parent().unwrap_or(Path::new(".")).join("journal");
    let holds = |file: &std::fs::DirEntry| {
        file.path().extension().is_some_and(|end| end == "journal") && file.metadata().is_ok_and(|file| file.len() > 0)
    };
    std::fs::read_dir(&journal).ok()?.flatten().any(|file| holds(&file)).then_some(journal)
}

/// Moves old files away.
pub fn archive(archive: &Archive) -> Result {
    let Archive { to, keep, folder } = archive;
    let (_, size) = range(folder)?;
    let below = size.saturating_sub(*keep) / WIDTH * WIDTH;
    let moved = archive::move_away(&folder.join(LOG), to, below).map_err(|error| failed(&error))?;
    let to = to.display();
    output::line(&format!("{moved} files of the entries below {below} are in {to} now, and are read from there."))
}

/// Makes the index again.
pub fn rebuild(rebuild: &Rebuild) -> Result {
    let folder = &rebuild.folder;
    let made = index::rebuild((folder, &folder.join(LOG)), range(folder)?).map_err(|error| failed(&error))?;
    output::line(&format!("The index of {made} bundles is made again."))
}
