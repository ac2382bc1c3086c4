//! `marg version`.

use clap::Args;

use crate::cli::failure::{Failure, Result};
use crate::cli::output::{self, Format};
use crate::unit::version;

/// Which facts to print.
#[derive(Debug, Args)]
pub struct Version {
    /// Also print the commit, the compiler and the versions of the main dependencies.
    #[arg(long)]
    verbose: bool,
}

/// Prints what this program is.
pub fn run(arguments: Version, format: Format) -> Result {
    let build = version::build();
    if format != Format::Table {
        let whole = serde_json::to_value(&build).map_err(|error| Failure::failed(error.to_string()))?;
        let short = serde_json::json!({ "version": build.version });
        return output::item(format, if arguments.verbose { &whole } else { &short });
    }
    let mut text = format!("marg {}", build.version);
    if arguments.verbose {
        text.push_str(&format!("\ncommit {}\n{}\ntarget {}", build.commit, build.rustc, build.target));
        for dependency in &build.dependencies {
            text.push_str(&format!("\n{} {}", dependency.name, dependency.version));
        }
    }
    output::line(&text)
}
