//! Marg: a gateway between applications and AI model providers. `ARCHITECTURE.md` is the map.

pub mod admin;
pub mod assemble;
pub mod audit;
pub mod budget;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod dialect;
pub mod error;
pub mod kavach;
pub mod key;
pub mod ledger;
pub mod pipeline;
pub mod provider;
pub mod proxy;
pub mod route;
pub mod store;
pub mod telemetry;
pub mod unit;
