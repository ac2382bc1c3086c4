//! `marg audit key`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::audit::key::{Purpose, SigningKeys, summary};
use crate::audit::note::{Algorithm, PublicKey, is_name};
use crate::cli::audit::read;
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output::{self, Format};
use crate::unit::clock::Timestamp;
use crate::unit::secret::Secret;

/// What to do with a key.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make the keys of a new log, or of a witness, in a file of mode 0600.
    Create(Create),
    /// Say what a key file holds, without its secret part.
    Show(Named),
    /// Make the next keys of a log beside the present ones (FILE.next); the gateway goes over to them at its next start.
    Rotate(Rotate),
    /// Print the public keys as a policy that `marg audit verify` reads.
    ExportPublic(Named),
}

/// A new key.
#[derive(Debug, Args)]
pub struct Create {
    /// The log's origin or the witness's name: a text without spaces that nobody else uses, such as marg.example.com/node-1.
    #[arg(long, value_name = "NAME")]
    origin: String,
    /// The file to make.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// A file whose content is the passphrase to wrap the key with.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Make the keys of a witness.
    #[arg(long)]
    witness: bool,
}

/// A key file.
#[derive(Debug, Args)]
pub struct Named {
    /// The key file.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// The next keys.
#[derive(Debug, Args)]
pub struct Rotate {
    /// The file with the present keys.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// A file whose content is the passphrase to wrap the next key with.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Do not wrap the next key although the present one is wrapped.
    #[arg(long)]
    unwrapped: bool,
}

/// Runs one of the commands.
pub fn run(command: Key, format: Format) -> Result {
    match command {
        Key::Create(Create { origin, file, passphrase_file, witness }) => {
            let purpose = if witness { Purpose::Witness } else { Purpose::Log };
            if !is_name(&origin) {
                return Err(Failure::usage(format!(
                    "{origin:?} is no name: it is empty, or holds spaces, + or control characters."
                )));
            }
            create(purpose, &origin, &file, passphrase_file.as_deref())?;
            show(&file, format, None)
        }
        Key::Show(Named { file }) => show(&file, format, None),
        Key::Rotate(Rotate { file, passphrase_file, unwrapped }) => {
            let present = open(&file)?;
            if present.wrapped && passphrase_file.is_none() && !unwrapped {
                let text = "The present keys are wrapped by a passphrase: give --passphrase-file for the next ones, too (the gateway \
                            has one passphrase for both), or say --unwrapped.";
                return Err(Failure::usage(text));
            }
            let mut next = file.into_os_string();
            next.push(".next");
            let next = PathBuf::from(next);
            create(present.purpose, &present.name, &next, passphrase_file.as_deref())?;
            let hint =
                "The gateway goes over to these keys at its next start; receipts then prove the way from the old ones.";
            show(&next, format, Some(hint).filter(|_| present.purpose == Purpose::Log))
        }
        Key::ExportPublic(Named { file }) => {
            let found = open(&file)?;
            let lines = found.public.iter().map(|text| line(text)).collect::<Result<Vec<_>>>()?;
            output::line(&format!("{}\nquorum none", lines.join("\n")))
        }
    }
}

fn line(text: &str) -> Result<String> {
    let key = PublicKey::parse(text).map_err(|error| Failure::failed(format!("{error}.")))?;
    Ok(match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::MlDsa65 => format!("log {key}"),
        // Each line of a policy has a name of its own.
        Algorithm::CosignatureEd25519 => format!("witness {}-ed25519 {key}", key.name()),
        Algorithm::CosignatureMlDsa44 => format!("witness {}-ml-dsa-44 {key}", key.name()),
    })
}

fn create(purpose: Purpose, name: &str, file: &Path, passphrase: Option<&Path>) -> Result {
    let passphrase = passphrase.map(secret).transpose()?;
    let keys =
        SigningKeys::create(purpose, name, Timestamp::now()).map_err(|error| Failure::usage(format!("{error}.")))?;
    keys.save(file, passphrase.as_ref()).map_err(|error| Failure::new(Exit::Conflict, format!("{error}.")))
}

/// A passphrase from a file, without its last line end.
pub(super) fn secret(path: &Path) -> Result<Secret> {
    let text = String::from_utf8(read(path)?).map_err(|_| Failure::failed("The passphrase is not UTF-8."))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
}

fn open(file: &Path) -> Result<crate::audit::key::KeySummary> {
    let text =
        String::from_utf8(read(file)?).map_err(|_| Failure::failed(format!("{} is no key file.", file.display())))?;
    summary(&text).map_err(|error| Failure::failed(format!("{}: {error}.", file.display())))
}

/// Shows a key file. In a table each public key is named by its kind and number, as signatures name it; the others have it whole.
fn show(file: &Path, format: Format, hint: Option<&str>) -> Result {
    let found = open(file)?;
    let public = match format {
        Format::Table => found.public.iter().map(|text| named(text)).collect::<Result<Vec<_>>>()?,
        Format::Json | Format::Yaml => found.public,
    };
    let mut answer = json!({
        "name": found.name, "purpose": found.purpose, "created_at": found.created_at, "wrapped": found.wrapped,
        "file": file.display().to_string(), "public": public,
    });
    if let (Some(hint), Some(fields)) = (hint, answer.as_object_mut()) {
        fields.insert("next".to_owned(), hint.into());
    }
    output::item(format, &answer)
}

fn named(text: &str) -> Result<String> {
    let key = PublicKey::parse(text).map_err(|error| Failure::failed(format!("{error}.")))?;
    Ok(format!("{key:?}"))
}
