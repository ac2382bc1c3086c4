//! `marg init`.
//!
//! Makes what is missing and leaves the rest alone, so it can be run again after a failure or by a machine that sets up
//! others. Folders have mode 0700, files 0600. The first admin token is printed once and kept in `admin.token`, which whoever
//! set the gateway up may delete after reading.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::assemble::{audit, house};
use crate::cli::failure::{Failure, Result};
use crate::cli::local;
use crate::cli::output::{self, Format};
use crate::key::admin::{AdminToken, AdminTokenStore, Role};
use crate::store::Address;
use crate::unit::clock::Timestamp;
use crate::unit::file;

/// The annotated example, which is what every default is.
const EXAMPLE: &str = include_str!("../../conf/marg.yaml");

/// Where to make everything.
#[derive(Debug, Args)]
pub struct Init {
    /// The folder to make; its configuration is marg.yaml, its data are in data.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// Write the configuration anew, over the one that is there. Nothing else is replaced.
    #[arg(long)]
    force: bool,
}

/// What was made, and the first admin token if this run minted it.
#[derive(Default)]
struct Made {
    things: Vec<String>,
    token: Option<String>,
    /// The public keys of the audit log.
    audit_keys: Vec<String>,
}

/// Makes what is missing.
pub async fn run(init: Init, format: Format) -> Result {
    let mut made = Made::default();
    make_folder(&init.dir, &mut made)?;
    let dir = init.dir.canonicalize()?;
    let config = dir.join("marg.yaml");
    write_config(&config, &dir.join("data"), init.force, &mut made)?;
    let loaded = local::configuration(&config)?;
    let data = &loaded.config.data_dir;
    note(data, &mut made);
    // What is made below is looked for first, so other runs have to wait.
    let _alone = house::alone(data).map_err(|error| local::failure(&error))?;
    if loaded.hash_key.is_none() {
        note(&data.join("hash.key"), &mut made);
    }
    let database = match &loaded.database_url {
        None => Some(data.join("marg.db")),
        Some(url) => Address::of(url.clone(), String::new()).file(),
    };
    if let Some(database) = database {
        note(&database, &mut made);
    }
    let house = house::open(&loaded).await.map_err(|error| local::failure(&error))?;
    if loaded.config.audit.passphrase.is_none() {
        // With a passphrase the key is made at the first start, which looks references up.
        let was_there = data.join("audit.key").exists();
        let key = audit::make_key(&loaded.config, None).map_err(|error| local::failure(&error))?;
        if let Some((file, public)) = key {
            made.things.extend((!was_there).then(|| file.display().to_string()));
            made.audit_keys = public;
        }
    }
    if AdminTokenStore::all(&*house.store).await?.is_empty() {
        let made_by = "made by marg init";
        let (token, minted) = AdminToken::mint(made_by, Role::Admin, None, &house.hash_key, Timestamp::now())?;
        // The file first: were it the other way round, a full disk would leave a gateway whose only token nobody knows.
        let path = data.join("admin.token");
        write(&path, &format!("{}\n", minted.token.expose()))?;
        AdminTokenStore::insert(&*house.store, &token).await?;
        made.things.push(path.display().to_string());
        made.token = Some(minted.token.expose().to_owned());
    }
    house.store.close().await;
    report(&made, &config, format)
}

fn make_folder(dir: &Path, made: &mut Made) -> Result {
    if !dir.exists() {
        let built = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        built.map_err(|error| cannot(dir, &error))?;
        made.things.push(dir.display().to_string());
    }
    Ok(())
}

fn write_config(config: &Path, data: &Path, force: bool, made: &mut Made) -> Result {
    if config.exists() && !force {
        return Ok(());
    }
    let text = example(data)?;
    let is_new = match force {
        true => write(config, &text).map(|()| true)?,
        // Another run may have been quicker.
        false => file::create(config, text.as_bytes(), 0o600).map_err(|error| cannot(config, &error))?,
    };
    made.things.extend(is_new.then(|| config.display().to_string()));
    Ok(())
}

/// The annotated example with the data folder filled in as an absolute path, so that it means the same from everywhere.
fn example(data: &Path) -> Result<String> {
    let data = data.to_str().ok_or_else(|| Failure::usage("The path of the folder must be UTF-8."))?;
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("data_dir:") {
        // A JSON text is a YAML text.
        Some(_) => format!("data_dir: {}\n", Value::from(data)),
        None => format!("{line}\n"),
    });
    Ok(lines.collect())
}

/// Writes a file with mode 0600, over one that may be there, completely or not at all.
fn write(path: &Path, text: &str) -> Result {
    file::replace(path, text.as_bytes(), 0o600).map_err(|error| cannot(path, &error))
}

/// Notes something that is about to be made.
fn note(path: &Path, made: &mut Made) {
    if !path.exists() {
        made.things.push(path.display().to_string());
    }
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{} cannot be made: {error}.", path.display()))
}

fn report(made: &Made, config: &Path, format: Format) -> Result {
    if format != Format::Table {
        let answer = json!({ "config": config.display().to_string(), "made": made.things, "admin_token": made.token, "audit_keys": made.audit_keys });
        return output::item(format, &answer);
    }
    if made.things.is_empty() {
        return output::line("Everything is there already; nothing was changed.");
    }
    made.things.iter().try_for_each(|thing| output::line(&format!("made {thing}")))?;
    if !made.audit_keys.is_empty() {
        crate::cli::complain("\nThe audit log is signed by these keys; give them to whoever is to verify it:");
        made.audit_keys.iter().try_for_each(|key| output::line(key))?;
    }
    // Last, to be copied by `tail -1`.
    if let Some(token) = &made.token {
        crate::cli::complain("\nThe admin token is shown this once only:");
        output::line(token)?;
    }
    crate::cli::complain(&format!("\nStart the gateway with: marg start --config {}", config.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_of_the_example_is_replaced_by_a_quoted_absolute_path() {
        let text = example(Path::new("/srv/a \"b\": c/data")).unwrap();
        let config = crate::config::load::parse(&text, "marg.yaml").unwrap();
        assert_eq!(config.data_dir, Path::new("/srv/a \"b\": c/data"));
    }
}
