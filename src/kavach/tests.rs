//! The gate by its public door: sets, decisions, properties, faults.

mod drawn;
mod faults;
mod gate;
mod operators;
mod table;
