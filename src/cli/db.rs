//! `marg db`.

use clap::Subcommand;
use serde_json::json;

use crate::assemble::house;
use crate::cli::Common;
use crate::cli::failure::{Failure, Result};
use crate::cli::local;
use crate::cli::output::{self, Format};

/// What to do with the database.
#[derive(Debug, Subcommand)]
pub enum Db {
    /// Bring the schema of the database up to date; make the database if it is not there. A start does the same.
    Migrate,
}

/// Runs one of the commands.
pub async fn run(command: Db, common: &Common) -> Result {
    let Db::Migrate = command;
    if common.server.is_some() {
        return Err(Failure::usage("A running instance brings its own database up to date; leave --server out."));
    }
    let loaded = local::configuration(&common.config)?;
    let opened = house::open(&loaded).await.map_err(|error| local::failure(&error))?;
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
