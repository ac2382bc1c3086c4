//! `marg routes`: where calls go, and the end of a stored route. New ones come by the admin API, which knows the providers.

use axum::http::Method;
use clap::{Args, Subcommand};

use crate::cli::door::{Door, encode};
use crate::cli::failure::Result;
use crate::cli::output::{self, Column, Format};

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("ORIGIN", "/origin"),
    ("NAME", "/name"),
    ("MODEL", "/route/match/model"),
    ("TEAM", "/route/match/team"),
    ("TO", "/route/to"),
    ("SPLIT", "/route/split"),
    ("FALLBACK", "/route/fallback"),
    ("PROBLEM", "/problem"),
];

/// What to do with routes.
#[derive(Debug, Subcommand)]
pub enum Routes {
    /// List routes in matching order: those of the configuration file, then the stored ones.
    List,
    /// Delete a stored route.
    Delete(Which),
}

/// Which route.
#[derive(Debug, Args)]
pub struct Which {
    /// The id, such as rte_06d3m0s1x9qg3v5c8e7k2a4n1r.
    #[arg(value_name = "ID", value_parser = crate::cli::keys::named)]
    id: String,
}

/// Runs one of the commands.
pub async fn run(command: Routes, door: &Door, format: Format) -> Result {
    match command {
        Routes::List => {
            let answer = door.ask(Method::GET, "/admin/routes", None).await?;
            output::list(format, &answer, "/routes", COLUMNS)
        }
        Routes::Delete(Which { id }) => {
            door.ask(Method::DELETE, &format!("/admin/routes/{}", encode(&id)), None).await?;
            output::deleted(format, &id)
        }
    }
}
