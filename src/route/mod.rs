//! Where a call goes: the route table, the plan, health.

pub mod config;
pub mod store;
