//! `marg check`.

use serde_json::json;

use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output::{self, Format};
use crate::cli::{Common, complain};
use crate::config::load;
use crate::config::problem::Problem;

/// Loads the configuration as a start would, and lists every problem as `file:line:column: key: text`.
pub fn run(common: &Common) -> Result {
    let (problems, warnings) = match load::load(&common.config) {
        Ok(loaded) => (Vec::new(), loaded.warnings),
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

fn row(problem: &Problem) -> serde_json::Value {
    json!({
        "file": problem.origin, "line": problem.line, "column": problem.column, "path": problem.path, "text": problem.text,
    })
}
