//! The configuration of `marg demo`: built from the environment, without a file.

use std::path::PathBuf;

use crate::config::Config;
use crate::config::load::Loaded;
use crate::config::problem::Problem;

/// Builds the demonstration's configuration.
///
/// # Errors
/// Every fault of the environment.
pub fn demo(data_dir: PathBuf, _simulated_base_url: &str) -> Result<Loaded, Vec<Problem>> {
    let config = Config { data_dir, ..Config::default() };
    Ok(Loaded { config, providers: Vec::new(), hash_key: None, warnings: Vec::new() })
}
