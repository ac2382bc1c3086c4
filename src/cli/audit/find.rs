//! `marg audit receipt`, `search`, `export`, `tail` and `text` on a folder; `remote` has those that ask a running instance.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::Method;
use clap::Args;
use data_encoding::BASE64;
use serde_json::Value;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::entry;
use crate::audit::index::{self, Filter};
use crate::audit::receipt::Receipt;
use crate::audit::salts;
use crate::audit::tail::LOG;
use crate::audit::texts::Texts;
use crate::audit::tiles::{self, Row, WIDTH};
use crate::cli::Common;
use crate::cli::audit::read;
use crate::cli::door::{Door, encode};
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output::{self, Format};
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;

/// How often `tail` looks for a new checkpoint.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// An entry.
#[derive(Debug, Args)]
pub struct Wanted {
    /// The id of an exchange (x-marg-receipt, x-marg-exchange), or the index of an entry.
    entry: String,
    /// Put in the salt, which shows whoever has the receipt and the text that the entry is of that text.
    #[arg(long)]
    salt: bool,
    /// The audit folder.
    #[arg(long, value_name = "FOLDER", default_value = "data/audit")]
    folder: PathBuf,
}

/// Whose entries, and of which time.
#[derive(Debug, Args)]
pub struct Whose {
    /// The id of a key.
    #[arg(long, value_name = "ID", value_parser = text_of)]
    key: Option<String>,
    /// An organisation.
    #[arg(long, value_name = "NAME", value_parser = text_of)]
    org: Option<String>,
    /// A team.
    #[arg(long, value_name = "NAME", value_parser = text_of)]
    team: Option<String>,
    /// A user.
    #[arg(long, value_name = "NAME", value_parser = text_of)]
    user: Option<String>,
    /// At this time or later: RFC 3339, or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    since: Option<Timestamp>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    until: Option<Timestamp>,
}

impl Whose {
    /// What that asks of an entry.
    pub(super) fn filter(&self) -> Filter {
        let Self { key, org, team, user, since, until } = self;
        let texts = [key, org, team, user].map(Clone::clone);
        let [key, org, team, user] = texts;
        Filter { key, org, team, user, since: *since, until: *until, ..Filter::default() }
    }

    /// The same, as the admin API names it.
    pub(super) fn asked(&self) -> [(&'static str, Option<String>); 6] {
        let Self { key, org, team, user, since, until } = self;
        [
            ("key", key.clone()),
            ("org", org.clone()),
            ("team", team.clone()),
            ("user", user.clone()),
            ("since", since.map(Timestamp::rfc3339)),
            ("until", until.map(Timestamp::rfc3339)),
        ]
    }
}

/// What is looked for; every flag that is given must match.
#[derive(Debug, Args)]
pub struct Matching {
    /// The audit folder, where no --server is given.
    #[arg(long, value_name = "FOLDER", default_value = "data/audit")]
    folder: PathBuf,
    #[command(flatten)]
    whose: Whose,
    /// A model, as asked for or as served.
    #[arg(long, value_name = "NAME", value_parser = text_of)]
    model: Option<String>,
    /// What an event happened to.
    #[arg(long, value_name = "ID", value_parser = text_of)]
    subject: Option<String>,
    /// The kind of entry, such as exchange, refusal, key, policy.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<String>,
    /// What was done by the gate's verdict (allow, deny, would-deny), or the outcome where the gate was not asked.
    #[arg(long, value_name = "WORD", value_parser = text_of)]
    verdict: Option<String>,
}

/// A search; what is exported or followed has no bound.
#[derive(Debug, Args)]
pub struct Search {
    #[command(flatten)]
    pub(super) matching: Matching,
    /// The most entries that are printed.
    #[arg(long, value_name = "COUNT", default_value_t = NonZeroUsize::new(100).unwrap_or(NonZeroUsize::MIN))]
    limit: NonZeroUsize,
}

/// A kind that entries have: a word that none has finds nothing, which is no answer.
fn kind(word: &str) -> std::result::Result<String, String> {
    if entry::is_kind(word) {
        return Ok(word.to_owned());
    }
    Err("no entry is of this kind; docs/audit.md lists them, such as exchange, refusal, key, policy".to_owned())
}

/// A text that is looked for.
fn text_of(word: &str) -> std::result::Result<String, String> {
    if word.is_empty() { Err("it is empty; leave the flag out to take all".to_owned()) } else { Ok(word.to_owned()) }
}

/// A text.
#[derive(Debug, Args)]
pub struct Text {
    /// The id of an exchange.
    exchange: ExchangeId,
    /// Print the answer, not the prompt.
    #[arg(long)]
    answer: bool,
    /// The audit folder.
    #[arg(long, value_name = "FOLDER", default_value = "data/audit")]
    folder: PathBuf,
}

impl Matching {
    fn filter(&self) -> Filter {
        let Self { whose, model, subject, kind, verdict, .. } = self;
        Filter {
            model: model.clone(),
            subject: subject.clone(),
            kind: kind.clone(),
            verdict: verdict.clone(),
            ..whose.filter()
        }
    }

    /// The same, as the admin API names it.
    pub(super) fn asked(&self) -> Vec<(&'static str, Option<String>)> {
        let Self { whose, model, subject, kind, verdict, .. } = self;
        let more = [("model", model), ("subject", subject), ("kind", kind), ("verdict", verdict)];
        whose.asked().into_iter().chain(more.map(|(name, text)| (name, text.clone()))).collect()
    }
}

impl Search {
    /// The most entries that are printed.
    pub(super) fn limit(&self) -> usize {
        self.limit.get()
    }
}

/// The range of entries whose texts are there, under the last checkpoint. Those that are missing must have been deleted by the log.
pub(super) fn range(folder: &Path) -> Result<(u64, u64)> {
    let log = folder.join(LOG);
    let (checkpoint, _) = Checkpoint::from_note(&read(&log.join("checkpoint"))?)
        .map_err(|error| Failure::failed(format!("{}: {error}.", log.join("checkpoint").display())))?;
    let there = |number: &u64| tiles::locate(&log, &tiles::path(Row::Entries, *number, WIDTH)).exists();
    // Only whole bundles are deleted, from the beginning on.
    let first = (0..checkpoint.size / WIDTH).find(there).unwrap_or(checkpoint.size / WIDTH) * WIDTH;
    let allowed = if first == 0 { 0 } else { deleted(folder, (first, checkpoint.size))? };
    if first > allowed {
        let place = tiles::archive(&log).map(|moved| format!(" Old files were moved to {}.", moved.display()));
        let text = format!(
            "The entries from {allowed} to {} are missing, and the log did not delete them.{}",
            first - 1,
            place.unwrap_or_default()
        );
        return Err(Failure::failed(text));
    }
    Ok((first, checkpoint.size))
}

/// The index below which the log itself says that it deleted entries.
fn deleted(folder: &Path, range: (u64, u64)) -> Result<u64> {
    let filter = Filter { kind: Some("prune".to_owned()), ..Filter::default() };
    let newest = found(folder, range, &filter, 1)?;
    let entry = newest.first().and_then(|(_, entry)| serde_json::from_slice::<Value>(entry).ok());
    Ok(entry.and_then(|entry| entry.get("detail")?.get("below")?.as_u64()).unwrap_or(0))
}

fn found(folder: &Path, range: (u64, u64), filter: &Filter, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
    index::search((folder, &folder.join(LOG)), range, filter, limit)
        .map_err(|error| Failure::failed(format!("{error}.")))
}

fn print((number, entry): &(u64, Vec<u8>), format: Format) -> Result {
    // An entry is an object; its index goes first.
    let text = String::from_utf8_lossy(entry);
    output::entry(format, &format!("{{\"index\":{number},{}", text.strip_prefix('{').unwrap_or(&text)))
}

/// Prints a receipt.
pub fn receipt(wanted: &Wanted) -> Result {
    let Wanted { entry, salt, folder } = wanted;
    let index = match (entry.parse::<u64>(), entry.parse::<uuid::Uuid>()) {
        (Ok(index), _) => index,
        (_, Ok(id)) => {
            let kinds = ["exchange", "refusal"].map(|kind| {
                let filter = Filter { id: Some(id), kind: Some(kind.to_owned()), ..Filter::default() };
                found(folder, range(folder)?, &filter, 1)
            });
            let mut all = kinds.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten();
            all.next().map(|(index, _)| index).ok_or_else(|| {
                Failure::new(Exit::NotFound, format!("There is no exchange {id} under the last checkpoint."))
            })?
        }
        _ => return Err(Failure::usage("An entry is named by the id of an exchange (a UUID) or by its index.")),
    };
    let receipt = Receipt::from_files(&folder.join(LOG), index);
    let mut receipt = receipt.map_err(|error| Failure::new(Exit::NotFound, format!("{error}.")))?;
    if *salt {
        receipt.salt = salts::read(folder, index).map_err(|error| Failure::failed(format!("{error}.")))?;
        if receipt.salt.is_none() {
            return Err(Failure::new(Exit::NotFound, "The entry commits to nothing, or its salt was erased."));
        }
    }
    output::line(receipt.to_text().trim_end())
}

/// Prints a receipt that a running instance makes.
pub async fn receipt_of_server(wanted: &Wanted, door: &Door) -> Result {
    let salt = if wanted.salt { "?salt=true" } else { "" };
    let path = format!("/admin/audit/receipts/{}{salt}", encode(&wanted.entry));
    let receipt = door.ask(Method::GET, &path, None).await?;
    let text = serde_json::to_string_pretty(&receipt).map_err(|error| Failure::failed(format!("{error}.")))?;
    output::line(&text)
}

/// Prints the newest matches.
pub fn search(search: &Search, format: Format) -> Result {
    let Matching { folder, .. } = &search.matching;
    let entries = found(folder, range(folder)?, &search.matching.filter(), search.limit())?;
    entries.iter().try_for_each(|entry| print(entry, format))
}

/// Prints all matches, oldest first, a bundle at a time.
pub fn export(matching: &Matching) -> Result {
    let (first, size) = range(&matching.folder)?;
    part(matching, (first, size), Format::Json)
}

fn part(matching: &Matching, (from, to): (u64, u64), format: Format) -> Result {
    let filter = matching.filter();
    for number in from / WIDTH..to.div_ceil(WIDTH) {
        let piece = (from.max(number * WIDTH), to.min((number + 1) * WIDTH));
        let mut entries = found(&matching.folder, piece, &filter, usize::MAX)?;
        entries.reverse();
        entries.iter().try_for_each(|entry| print(entry, format))?;
    }
    Ok(())
}

/// Prints matches as they come.
pub async fn tail(matching: &Matching, format: Format) -> Result {
    let (_, mut seen) = range(&matching.folder)?;
    loop {
        tokio::time::sleep(LOOK).await;
        let (_, size) = range(&matching.folder)?;
        if size > seen {
            part(matching, (seen, size), format)?;
            seen = size;
        }
    }
}

/// Prints a kept text as it came, with no line end after it.
pub async fn text(wanted: &Text, common: &Common) -> Result {
    let Text { exchange, answer, folder } = wanted;
    let kept = if common.server.is_some() {
        let found = common.door()?.ask(Method::GET, &format!("/admin/audit/texts/{exchange}"), None).await?;
        let text = found.get(if *answer { "answer" } else { "prompt" }).and_then(Value::as_str);
        let base64 = found.get("encoding").and_then(Value::as_str) == Some("base64");
        text.map(|text| if base64 { BASE64.decode(text.as_bytes()).unwrap_or_default() } else { text.into() })
    } else {
        let found = Texts::of(folder).read(*exchange).map_err(|error| Failure::failed(format!("{error}.")))?;
        if *answer { found.answer } else { found.prompt }
    };
    let missing = || Failure::new(Exit::NotFound, "That text is not kept (audit.content, audit.text_retention_days).");
    output::raw(&kept.ok_or_else(missing)?)
}
