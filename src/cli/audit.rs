//! `marg audit`: keys, proofs, searches and upkeep. Everything but `prune` and `erase` reads or moves files only, so it works on a
//! copy of the log, on a machine that never saw Marg's data, and beside a gateway that writes it. With `--server` receipts,
//! searches and texts come from the running instance.

mod find;
mod keep;
mod key;
mod proof;
mod remote;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::audit::policy::{Policy, Standing};
use crate::audit::receipt::{Receipt, Which};
use crate::audit::verify::{self, Kept, Report};
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output::{self, Format};
use crate::cli::{Common, until_interrupted};
use crate::unit::commit::Salt;

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Make, show and change the keys that sign the log.
    #[command(subcommand)]
    Key(key::Key),
    /// Verify a whole log, a receipt, or that one checkpoint continues another.
    Verify(Verify),
    /// Print the proof that one checkpoint continues another, for `verify --proof`.
    Proof(proof::Proof),
    /// Print the receipt of an entry.
    Receipt(find::Wanted),
    /// Print the newest entries that match, newest first.
    Search(find::Search),
    /// Print all entries that match as JSON lines, oldest first.
    Export(find::Matching),
    /// Print entries that match as they come under a checkpoint, until interrupted.
    Tail(find::Matching),
    /// Delete old entries; their hashes stay, so everything that remains can be proved. The gateway must not be running.
    Prune(keep::Prune),
    /// Erase the link between entries and the prompts and answers that they commit to; entries and proofs stay.
    Erase(keep::Erase),
    /// Print the text of a prompt or an answer, where texts are kept.
    Text(find::Text),
    /// Move old files of the log to other storage; proofs stay possible, and the gateway may be running.
    Archive(keep::Archive),
    /// Care for the index that searches use.
    #[command(subcommand)]
    Index(keep::Index),
}

/// What to verify, and against whom.
#[derive(Debug, Args)]
pub struct Verify {
    /// The folder with `checkpoint` and `tile/`.
    #[arg(long, value_name = "FOLDER")]
    log: Option<PathBuf>,
    /// A receipt; may be given more than once.
    #[arg(long, value_name = "FILE")]
    receipt: Vec<PathBuf>,
    /// A proof that the checkpoint in it continues the one of --since.
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
    /// Whom to trust: keys of logs and witnesses, as `marg audit key export-public` writes them.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// With --proof: the statements by which the log went over to new keys (the file `rotations` beside its checkpoint).
    #[arg(long, value_name = "FILE")]
    rotations: Option<PathBuf>,
    /// A checkpoint that was kept: the log must continue it; may be given more than once.
    #[arg(long, value_name = "FILE")]
    since: Vec<PathBuf>,
    /// With one --receipt: the prompt that it is to be shown to be of, byte for byte as it was sent.
    #[arg(long, value_name = "FILE")]
    prompt: Option<PathBuf>,
    /// With one --receipt: the answer that it is to be shown to be of, byte for byte as it came.
    #[arg(long, value_name = "FILE")]
    answer: Option<PathBuf>,
    /// The salt of the entry, in base64; without it the one in the receipt is taken.
    #[arg(long, value_name = "FILE")]
    salt_file: Option<PathBuf>,
    /// Let one of the log's two signatures suffice.
    #[arg(long)]
    accept_one: bool,
    /// Let a log pass whose newest entries no witness has seen yet, as of a log that is being written. Without any witnessed
    /// checkpoint it fails all the same.
    #[arg(long)]
    unwitnessed_end: bool,
}

/// Runs one of the commands.
pub async fn run(command: Audit, common: &Common) -> Result {
    let format = common.output;
    match command {
        Audit::Receipt(wanted) if common.server.is_some() => find::receipt_of_server(&wanted, &common.door()?).await,
        Audit::Key(command) => key::run(command, format),
        Audit::Verify(command) => verify(&command, format),
        Audit::Proof(command) => proof::run(&command),
        Audit::Receipt(wanted) => find::receipt(&wanted),
        Audit::Search(search) if common.server.is_some() => remote::search(&search, &common.door()?, format).await,
        Audit::Export(matching) if common.server.is_some() => remote::export(&matching, &common.door()?).await,
        Audit::Tail(matching) if common.server.is_some() => {
            until_interrupted(remote::tail(&matching, &common.door()?, format)).await
        }
        Audit::Search(search) => find::search(&search, format),
        Audit::Export(matching) => find::export(&matching),
        Audit::Tail(matching) => until_interrupted(find::tail(&matching, format)).await,
        Audit::Prune(prune) => keep::prune(&prune),
        Audit::Erase(erase) => keep::erase(&erase, common).await,
        Audit::Text(text) => find::text(&text, common).await,
        Audit::Archive(archive) => keep::archive(&archive),
        Audit::Index(keep::Index::Rebuild(rebuild)) => keep::rebuild(&rebuild),
    }
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Failure::failed(format!("{} cannot be read: {error}.", path.display())))
}

/// A passphrase from a file.
pub(super) fn secret(path: &Path) -> Result<crate::unit::secret::Secret> {
    key::secret(path)
}

/// Reads a policy.
pub(super) fn policy(path: &Path) -> Result<Policy> {
    let text =
        String::from_utf8(read(path)?).map_err(|_| Failure::failed(format!("{} is not UTF-8.", path.display())))?;
    Policy::parse(&text).map_err(|error| Failure::failed(format!("{}: {error}.", path.display())))
}

fn verify(command: &Verify, format: Format) -> Result {
    let Verify { log, receipt, proof, since, accept_one, .. } = command;
    let trusted = policy(&command.policy)?;
    let trusted = if *accept_one { trusted.accept_one() } else { trusted };
    if log.is_none() && receipt.is_empty() && proof.is_none() {
        return Err(Failure::usage("Give --log, --receipt or --proof: what is to be verified?"));
    }
    let kept: Vec<Kept> = since
        .iter()
        .map(|path| Ok(Kept { name: path.display().to_string(), note: read(path)? }))
        .collect::<Result<_>>()?;
    if receipt.len() != 1 && (command.prompt.is_some() || command.answer.is_some()) {
        return Err(Failure::usage("--prompt and --answer need exactly one --receipt."));
    }
    for path in receipt {
        let found = Receipt::parse(&read(path)?).map_err(|error| wrong(path, &error))?;
        let standing = found.verify(&trusted).map_err(|fault| wrong(path, &fault))?;
        let shown = shown(command, path, &found)?;
        let more = json!({ "index": found.index, "shows": shown });
        tell(format, &path.display().to_string(), (&standing, &trusted), more)?;
        enough(path, &standing)?;
    }
    if let Some(path) = proof {
        let [old] = kept.as_slice() else { return Err(Failure::usage("--proof needs exactly one --since.")) };
        let notes = command.rotations.as_deref().map(statements).transpose()?.unwrap_or_default();
        let (before, after) =
            verify::consistency(old, &read(path)?, &trusted, &notes).map_err(|fault| wrong(path, &fault))?;
        let more = json!({ "continues": before.checkpoint.size });
        tell(format, &path.display().to_string(), (&after, &trusted), more)?;
        enough(path, &after)?;
    }
    let Some(folder) = log else { return Ok(()) };
    let report = verify::log(folder, &trusted, &kept).map_err(|fault| wrong(folder, &fault))?;
    let continues: Vec<_> = report.continues.iter().map(|(name, size)| format!("{name} ({size})")).collect();
    let last = report.witnessed.as_ref();
    let more = json!({
        "entries": report.entries, "pruned": report.pruned, "rotations": report.rotations, "continues": continues,
        "witnessed_size": last.map(|last| last.checkpoint.size), "witnessed_by": last.map(names),
    });
    tell(format, &folder.display().to_string(), (&report.standing, &trusted), more)?;
    how_far(folder, &report, command.unwitnessed_end)
}

/// A log that is not witnessed to its end, or not at all, is a failure unless an end may be missing.
fn how_far(folder: &Path, report: &Report, unwitnessed_end: bool) -> Result {
    if report.standing.witnessed {
        return Ok(());
    }
    let name = folder.display();
    let Some(last) = &report.witnessed else {
        return Err(Failure::new(Exit::Failed, format!("{name}: it is not witnessed as the policy asks.")));
    };
    let (size, end) = (last.checkpoint.size, report.standing.checkpoint.size - last.checkpoint.size);
    let text =
        format!("{name}: it is witnessed up to size {size}; the last {end} entries are signed by the log alone.");
    if unwitnessed_end { Ok(()) } else { Err(Failure::new(Exit::Failed, text)) }
}

fn names(standing: &Standing) -> Vec<String> {
    standing.witnesses.iter().map(|(name, at)| format!("{name} at {}", at.rfc3339())).collect()
}

/// Compares the texts that were given with what the entry commits to.
fn shown(command: &Verify, path: &Path, receipt: &Receipt) -> Result<Vec<&'static str>> {
    let texts = [(Which::Prompt, &command.prompt), (Which::Answer, &command.answer)];
    let given: Vec<_> = texts.into_iter().filter_map(|(which, file)| Some((which, file.as_ref()?))).collect();
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let salt = match &command.salt_file {
        Some(file) => {
            let text = String::from_utf8_lossy(&read(file)?).into_owned();
            let salt = Salt::parse(text.trim());
            Some(salt.ok_or_else(|| Failure::failed(format!("{} holds no salt: 32 bytes of base64.", file.display())))?)
        }
        None => receipt.salt,
    };
    let salt = salt.ok_or_else(|| {
        Failure::usage("The receipt holds no salt; get it with `marg audit receipt ID --salt`, or give --salt-file.")
    })?;
    for (which, file) in &given {
        receipt.shows(*which, &salt, &read(file)?).map_err(|fault| wrong(path, &fault))?;
    }
    Ok(given.into_iter().map(|(which, _)| which.name()).collect())
}

fn wrong(path: &Path, fault: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, format!("NOT VERIFIED: {}: {fault}.", path.display()))
}

/// Too few witnesses are a failure.
fn enough(path: &Path, standing: &Standing) -> Result {
    if standing.witnessed {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{}: too few witnesses cosigned it.", path.display())))
}

/// Reads the statements of rotations.
fn statements(path: &Path) -> Result<Vec<String>> {
    serde_json::from_slice(&read(path)?)
        .map_err(|error| Failure::failed(format!("{} is no list of rotations: {error}.", path.display())))
}

/// Says what was verified. Where the policy asks for no witness, nothing is said of being witnessed: nobody looked.
fn tell(format: Format, name: &str, (standing, policy): (&Standing, &Policy), more: serde_json::Value) -> Result {
    let mut answer = json!({
        "name": name, "status": if standing.witnessed { "verified" } else { "verified, but not witnessed as the policy asks" },
        "origin": standing.checkpoint.origin, "size": standing.checkpoint.size, "root": standing.checkpoint.root.to_string(),
        "signatures": standing.algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>(),
        "witnesses": names(standing), "witnessed": policy.asks_for_witnesses().then_some(standing.witnessed),
    });
    if let (Some(answer), serde_json::Value::Object(more)) = (answer.as_object_mut(), more) {
        answer.extend(more);
    }
    output::item(format, &answer)
}
