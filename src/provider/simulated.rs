//! The built-in simulated provider.
