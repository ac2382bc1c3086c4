//! `marg check`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output::{self, Format};
use crate::cli::{Common, complain};
use crate::config::load::{self, Loaded};
use crate::config::problem::Problem;
use crate::store::{self, Address};
use crate::unit::secret::Secret;

/// What to check.
#[derive(Debug, Args)]
pub struct Check {
    /// The configuration file; the one of --config, if left out.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Loads the configuration as a start would, and lists every problem as `file:line:column: key: text`.
pub fn run(check: Check, common: &Common) -> Result {
    let path = check.file.as_ref().unwrap_or(&common.config);
    let (problems, warnings) = match load::load(path) {
        Ok(loaded) => (addresses(path, &loaded), loaded.warnings),
        Err(problems) => (problems, Vec::new()),
    };
    if common.output != Format::Table {
        let rows = |list: &[Problem]| list.iter().map(row).collect::<Vec<_>>();
        let answer = json!({ "ok": problems.is_empty(), "errors": rows(&problems), "warnings": rows(&warnings) });
        output::item(common.output, &answer)?;
    } else {
        for problem in &problems {
            complain(&format!("{problem}"));
        }
        for warning in &warnings {
            complain(&format!("warning: {warning}"));
        }
        if problems.is_empty() {
            output::line("ok")?;
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Failed, "")) }
}

/// What the driver of the database finds wrong with its addresses, which a load does not ask it.
fn addresses(path: &Path, loaded: &Loaded) -> Vec<Problem> {
    let given = [("database.url", &loaded.database_url), ("database.listen_url", &loaded.listen_url)];
    let fault = |(key, url): (&str, &Option<Secret>)| {
        let address = Address::of(url.clone()?, String::new());
        let text = store::check(&address).err()?.to_string();
        Some(Problem { origin: path.display().to_string(), line: 0, column: 0, path: key.to_owned(), text })
    };
    given.into_iter().filter_map(fault).collect()
}

fn row(problem: &Problem) -> serde_json::Value {
    json!({
        "file": problem.origin, "line": problem.line, "column": problem.column, "path": problem.path, "text": problem.text,
    })
}
