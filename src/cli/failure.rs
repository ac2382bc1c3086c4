//! Why a command did not do what it was asked, and the exit code that says so.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// Exit codes, the same for every command; `docs/cli.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed while running: a file, the database, a defect of the server.
    Failed = 1,
    /// The command line is wrong, or the server finds the request wrong.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// The admin token is missing or wrong, or its role may not do this.
    Refused = 4,
    /// The server cannot be reached, or is overloaded.
    Unreachable = 5,
    /// The request contradicts what is there.
    Conflict = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that failed: one sentence for the standard error stream, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// One sentence; empty if everything was said already.
    pub text: String,
    /// Whether whoever reads the output went away, which is no failure.
    pub reader_gone: bool,
}

/// `Result` of a command.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with its code and sentence.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into(), reader_gone: false }
    }

    /// Something failed while running.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(Exit::Failed, text)
    }

    /// The command line is wrong.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// The failure that an HTTP status stands for, with the server's own sentence.
    pub fn of_status(status: u16, text: impl Into<String>) -> Self {
        let exit = match status {
            400 | 405 | 413 | 415 => Exit::Usage,
            401 | 403 | 429 => Exit::Refused,
            404 => Exit::NotFound,
            409 => Exit::Conflict,
            502..=504 => Exit::Unreachable,
            _ => Exit::Failed,
        };
        Self::new(exit, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let reader_gone = error.kind() == io::ErrorKind::BrokenPipe;
        Self { exit: Exit::Failed, text: error.to_string(), reader_gone }
    }
}

impl From<crate::error::Error> for Failure {
    fn from(error: crate::error::Error) -> Self {
        Self::of_status(error.kind().status(), error.text())
    }
}

impl From<crate::error::StoreError> for Failure {
    /// On this machine the cause helps, and whoever runs the command may read the folder anyway.
    fn from(error: crate::error::StoreError) -> Self {
        use crate::error::StoreError;
        match &error {
            StoreError::Conflict(_) => Self::new(Exit::Conflict, error.to_string()),
            StoreError::NotFound => Self::new(Exit::NotFound, error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}
