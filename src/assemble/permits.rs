//! Permits in the running gateway: their key in the data folder, the list of keys that are published, and what is written
//! down when they change.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::assemble::house::{read_secret, write_secret};
use crate::config::load::Loaded;
use crate::kavach::permits::Permits;
use crate::kavach::permits::config::SendTo;
use crate::kavach::permits::jwk::Jwk;
use crate::kavach::permits::key::PermitKeys;
use crate::kavach::permits::published::Published;
use crate::ledger::journal::{Journal, Line};
use crate::unit::clock::Timestamp;
use crate::unit::event::Event;
use crate::unit::file;
use crate::unit::secret::Secret;

/// The key file in the data folder.
pub const KEY_FILE: &str = "permit.key";
/// The list of public keys in the data folder: those that sign, and those whose permits may still be good.
const LIST_FILE: &str = "permit.published.json";

/// Permits as a configuration asks for them. Their files are in that folder: the data folder that the process started with,
/// which `data_dir` need not name any more after a reload. Whatever is missing is made: the key (0600), and the list of what
/// is published, which is on the disk before the first permit is signed. Nothing is touched where nobody ever got a permit.
///
/// # Errors
/// What cannot be made or read, with its path.
pub fn build(loaded: &Loaded, folder: &Path, now: Timestamp) -> Result<Permits, String> {
    let config = loaded.config.kavach.permits.clone();
    let list = folder.join(LIST_FILE);
    let known = known(&list)?;
    let keys = match config.send_to {
        SendTo::Nobody => None,
        _ => Some(keys(loaded, &folder.join(KEY_FILE), now)?),
    };
    let signing: Vec<Jwk> = keys
        .iter()
        .flat_map(|keys| config.algorithms.iter().map(|algorithm| keys.public_of(*algorithm).clone()))
        .collect();
    let cannot = |text: String| format!("kavach.permits: {text}");
    let published = known.turn(&signing, config.ttl(), now).map_err(|error| cannot(error.to_string()))?;
    if published != known {
        write_list(&list, &published).map_err(|error| cannot(format!("cannot write {}: {error}", list.display())))?;
    }
    Ok(Permits::new(config, keys, published.with(loaded.permits.extra.clone())))
}

fn known(list: &Path) -> Result<Published, String> {
    match fs::read_to_string(list) {
        Ok(text) => Published::read(&text)
            .map_err(|error| format!("kavach.permits: {} cannot be used: {error}", list.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Published::default()),
        Err(error) => Err(format!("kavach.permits: cannot read {}: {error}", list.display())),
    }
}

fn keys(loaded: &Loaded, path: &Path, now: Timestamp) -> Result<PermitKeys, String> {
    let opened = |text: &Secret, from: &str| {
        PermitKeys::open(text.expose()).map_err(|error| format!("kavach.permits.key: {from}{error}"))
    };
    if let Some(text) = &loaded.permits.key {
        return opened(text, "");
    }
    let cannot = |error: anyhow::Error| format!("kavach.permits.key: {error:#}");
    if read_secret(path).map_err(cannot)?.is_none() {
        save(path, now).map_err(cannot)?;
    }
    let mode = fs::metadata(path).map_err(|error| cannot(error.into()))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "kavach.permits.key: others may read {} (its mode is {mode:o}); make it 0600",
            path.display()
        ));
    }
    // Another process may have been quicker: what lies there now are the keys.
    let text = read_secret(path).map_err(cannot)?.ok_or("kavach.permits.key: the key vanished while it was made")?;
    opened(&text, &format!("{}: ", path.display()))
}

/// Makes a new key file of mode 0600, unless there is one already.
///
/// # Errors
/// When it cannot be written.
pub fn save(path: &Path, now: Timestamp) -> anyhow::Result<()> {
    let keys = PermitKeys::create(now)?;
    write_secret(path, &Secret::new(keys.to_text()?.as_str()))
}

/// Puts a new key file in the place of another, at once. The gateway takes it at its next reload or start.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, now: Timestamp) -> anyhow::Result<()> {
    let beside = path.with_extension("key.next");
    // What an interrupted rotation left never signed anything.
    if let Err(error) = fs::remove_file(&beside)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    save(&beside, now)?;
    fs::rename(&beside, path)?;
    Ok(())
}

fn write_list(path: &Path, published: &Published) -> std::io::Result<()> {
    file::replace(path, published.to_text().as_bytes(), 0o600)
}

/// Writes down who gets permits and which keys sign them, if that is not as before, and who wanted it so.
pub fn note_change(journal: &Journal, actor: &str, (before, after): (Option<&Permits>, &Permits)) {
    let told = |permits: &Permits| json!({"send_to": permits.config().send_to.name(), "keys": permits.signing()});
    let (from, to) = (before.map(told), told(after));
    let nothing = after.signing().is_empty() && before.is_none_or(|before| before.signing().is_empty());
    if nothing || from.as_ref() == Some(&to) {
        return;
    }
    tracing::info!(send_to = after.config().send_to.name(), keys = ?after.signing(), "permits are signed by other keys");
    let event = Event::of_gateway("change", json!({"from": from, "to": to}));
    let event = Event { noun: "permit".to_owned(), actor: actor.into(), ..event };
    if let Err(error) = journal.append_or_keep(Line::Event(event)) {
        tracing::error!(%error, "that permits changed could not be written down");
    }
}

#[cfg(test)]
mod tests;
