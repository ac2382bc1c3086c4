//! `marg start` and `marg demo`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::assemble::{Source, StartError, run};
use crate::cli::failure::{Failure, Result};
use crate::cli::local;

/// Where the demonstration keeps its data.
#[derive(Debug, Args)]
pub struct Demo {
    /// The data folder; made if it is not there. Left out, MARG_DATA_DIR, else ./data.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

/// Runs the gateway until it is told to stop.
pub fn start(config: &Path) -> Result<ExitCode> {
    run(Source::File(config.to_owned())).map_err(|error| failure(error, config))
}

/// Runs the gateway with embedded defaults.
pub fn demo(demo: Demo) -> Result<ExitCode> {
    run(Source::Demo(demo.data_dir)).map_err(|error| failure(error, Path::new("")))
}

fn failure(error: StartError, config: &Path) -> Failure {
    match error {
        StartError::Config(problems) => local::misconfigured(config, &problems),
        StartError::Other(error) => local::failure(&error),
    }
}
