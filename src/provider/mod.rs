//! Who serves: presets, credentials, endpoints.

pub mod config;
pub mod preset;
pub mod simulated;
