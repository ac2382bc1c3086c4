//! May this be done: the gate that judges a call before it goes out.
//!
//! `policy` loads a set of Cedar policies, checked against `schema`; `slice` finds the few that can concern a call; `gate`
//! judges a `call` and gives a `Verdict`, from which alone a `Permit` comes. `session` and `drift` make figures that
//! policies may use. `permits` puts permits on paper, `admin` judges operators. `replay` and `report` tell what a set would do;
//! `table` and `import` serve the command line.
//! `memory` carries sessions and habits of keys between processes and a store. Else nothing here does I/O except reading policy
//! files and an address database, and nothing reads a clock.

pub mod admin;
pub mod call;
pub mod config;
pub mod drift;
pub mod gate;
pub mod import;
pub mod memory;
pub mod permits;
pub mod policy;
pub mod replay;
pub mod report;
pub mod rule;
pub mod schema;
pub mod session;
pub mod slice;
pub mod table;
pub mod verdict;

mod bounds;
mod context;
mod slots;

pub use call::{Action, Call, Caller, Facts, Scores, SessionFigures, Target};
pub use gate::Gate;
pub use policy::PolicySet;
pub use verdict::{Permit, Refusal, Suspension, Verdict};

#[cfg(test)]
mod tests;
