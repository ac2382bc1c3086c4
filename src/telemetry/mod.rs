//! What operators see: logs, metrics, and tasks that cannot die unseen.

pub mod log;
pub mod metrics;
pub mod task;
