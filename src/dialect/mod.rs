//! Wire languages: what callers and providers say, understood without being rewritten.
//!
//! Pure: bytes in, bytes out; no I/O, no clock, no task. Today there is one language, OpenAI's. A request is validated
//! and understood in one pass (`openai::understand`), forwarded byte for byte except for three documented splices
//! (`Facts::body_for`), and its answer is relayed unchanged while tokens, model and end are read off it (`AnswerReader`).
//! Nothing is re-serialised between two sides of the same language. Every buffer has a written bound; input that no one
//! checked never panics, recurses or takes more than linear time.

pub mod answer;
mod clean;
pub mod error;
mod findings;
mod form;
mod hide;
pub mod json;
mod multipart;
pub mod naming;
mod offer;
pub mod openai;
pub mod operation;
mod others;
mod past;
mod redact;
mod shape;
mod splice;
pub mod sse;
pub mod text;
pub mod unpack;
mod urlencoded;
pub mod usage;
pub mod value;
mod writing;

#[cfg(test)]
mod golden;

pub use answer::{AnswerReader, Relayed, StreamError, cut_event};
pub use clean::Confidential;
pub use error::{error_body, upstream_error_body};
pub use naming::{Naming, Runs, naming, runs};
pub use openai::{Facts, Modalities, understand};
pub use operation::{Operation, Place, allowed_methods, place};
pub use others::{MAX_OTHER_MODELS, ToolModel};
pub use splice::{CeilingField, Changes};
pub use text::{TEXT_LIMIT_BYTES, delivered_text, frame_tokens, request_text, tokens_given};
pub use writing::Writing;
