//! What a reload cannot apply.

use crate::config::Config;

/// The keys that differ and whose new values need a restart.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    if old.data_dir == new.data_dir { Vec::new() } else { vec!["data_dir"] }
}
