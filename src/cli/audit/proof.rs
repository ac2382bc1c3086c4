//! `marg audit proof`: that one checkpoint continues another.

use std::path::PathBuf;

use clap::Args;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::tail::LOG;
use crate::audit::tiles::TreeFiles;
use crate::audit::witness::AddCheckpoint;
use crate::cli::audit::read;
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output;

/// Which two checkpoints.
#[derive(Debug, Args)]
pub struct Proof {
    /// The older checkpoint, as somebody kept it.
    #[arg(long, value_name = "FILE")]
    since: PathBuf,
    /// The newer checkpoint; the newest of the log when left out.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// The audit folder.
    #[arg(long, value_name = "FOLDER", default_value = "data/audit")]
    folder: PathBuf,
}

/// Prints the proof.
pub fn run(command: &Proof) -> Result {
    let log = command.folder.join(LOG);
    let checkpoint = |path: &PathBuf| {
        let parsed = Checkpoint::from_note(&read(path)?);
        parsed.map_err(|error| Failure::failed(format!("{}: {error}.", path.display())))
    };
    let (old, _) = checkpoint(&command.since)?;
    let (new, note) = checkpoint(command.to.as_ref().unwrap_or(&log.join("checkpoint")))?;
    if old.size > new.size || old.origin != new.origin {
        let text =
            format!("Size {} of {} does not come after size {} of {}.", new.size, new.origin, old.size, old.origin);
        return Err(Failure::new(Exit::Failed, text));
    }
    let made = AddCheckpoint::between(old.size, (new.size, note.to_string()), &TreeFiles::new(&log, new.size));
    let proof = made.map_err(|error| Failure::new(Exit::NotFound, format!("{error}.")))?;
    output::line(proof.to_text().trim_end())
}
