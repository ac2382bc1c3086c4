//! `marg db`.

use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::assemble::house;
use crate::cli::Common;
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::local;
use crate::cli::output::{self, Format};
use crate::config::load::{self, Loaded};
use crate::ledger::journal;
use crate::store::{self, Address};

/// What to do with the database.
#[derive(Debug, Subcommand)]
pub enum Db {
    /// Bring the schema of the database up to date, and make the database if it is not there, as a start does. With --to, move
    /// everything to another database: keys, tokens, routes, limits, prices and the request log. Stop the gateway first; a move
    /// that was interrupted is begun again.
    Migrate(Migrate),
}

/// What is brought where.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The empty database to move to: sqlite:PATH, postgres://USER@HOST/NAME, or env:NAME or file:PATH for one with a password.
    #[arg(long, value_name = "DATABASE")]
    to: Option<String>,
    /// The database to move from, written as for --to; the one of the configuration, if left out.
    #[arg(long, value_name = "DATABASE", requires = "to")]
    from: Option<String>,
}

/// Runs one of the commands.
pub async fn run(command: Db, common: &Common) -> Result {
    if common.server.is_some() {
        return Err(Failure::usage("A running instance brings its own database up to date; leave --server out."));
    }
    let loaded = local::configuration(&common.config)?;
    match command {
        Db::Migrate(Migrate { to: None, .. }) => bring_up_to_date(&loaded, common).await,
        Db::Migrate(Migrate { to: Some(to), from }) => move_everything(&loaded, (from.as_deref(), &to), common).await,
    }
}

async fn move_everything(loaded: &Loaded, (from, to): (Option<&str>, &str), common: &Common) -> Result {
    let named = |text: &str| load::database_url(text).map_err(Failure::usage);
    let configured = house::address(loaded).map_err(|error| local::failure(&error))?;
    let from = match from {
        Some(text) => Address { url: named(text)?, ..configured.clone() },
        None => configured.clone(),
    };
    let is_configured = is_same(&from, &configured);
    let to = Address { url: named(to)?, listen_url: None, ..configured };
    if is_same(&from, &to) {
        return Err(Failure::usage("The database to move to is the one to move from."));
    }
    if is_configured {
        nobody_writes(&loaded.config.data_dir)?;
    }
    let copied = store::copy_all(&from, &to).await?;
    if common.output != Format::Table {
        return output::item(common.output, &json!({ "tables": copied }));
    }
    copied.iter().try_for_each(|table| {
        output::line(&format!("{}: {} rows, {} of them copied now", table.table, table.rows, table.new))
    })?;
    output::line("Both databases hold the same. Name the new one in database.url and start the gateway.")
}

/// Whether two addresses lead to the same database: by the same words, or to the same file, however it is spelled or linked.
fn is_same(one: &Address, other: &Address) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |address: &Address| {
        let metadata = std::fs::metadata(address.file()?).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    one.url == other.url || identity(one).is_some_and(|file| identity(other) == Some(file))
}

/// What a gateway writes while everything is moved would be missing in the new database, and nobody would tell.
fn nobody_writes(folder: &Path) -> Result {
    let used = journal::in_use(&folder.join("journal"));
    if used.map_err(|error| Failure::failed(format!("cannot read the journal in {}: {error}", folder.display())))? {
        let text = format!("A gateway is running in {}. Stop it first, so that nothing is lost.", folder.display());
        return Err(Failure::new(Exit::Conflict, text));
    }
    Ok(())
}

async fn bring_up_to_date(loaded: &Loaded, common: &Common) -> Result {
    let opened = house::open(loaded).await.map_err(|error| local::failure(&error))?;
    let applied = opened.applied;
    opened.store.close().await;
    if common.output != Format::Table {
        let steps: Vec<_> = applied.iter().map(|step| json!({ "version": step.version, "name": step.name })).collect();
        return output::item(common.output, &json!({ "applied": steps }));
    }
    if applied.is_empty() {
        return output::line("The database is up to date.");
    }
    applied.iter().try_for_each(|step| output::line(&format!("applied {} {}", step.version, step.name)))
}
