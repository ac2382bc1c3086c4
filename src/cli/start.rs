//! `marg start` and `marg demo`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::cli::failure::{Failure, Result};

/// Where the demonstration keeps its data.
#[derive(Debug, Args)]
pub struct Demo {
    /// The data folder; made if it is not there. MARG_DATA_DIR takes its place.
    #[arg(long, default_value = "data", value_name = "FOLDER")]
    data_dir: PathBuf,
}

/// Runs the gateway until it is told to stop.
pub fn start(config: &Path) -> Result<ExitCode> {
    crate::assemble::run(config).map_err(|error| failure(&error))
}

/// Runs the gateway with embedded defaults.
pub fn demo(demo: Demo) -> Result<ExitCode> {
    crate::assemble::demo(&demo.data_dir).map_err(|error| failure(&error))
}

fn failure(error: &anyhow::Error) -> Failure {
    // The chain of causes in one sentence.
    Failure::failed(format!("{error:#}"))
}
