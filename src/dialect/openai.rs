//! What a request in OpenAI's language says.

use bytes::Bytes;

use crate::dialect::operation::Operation;
use crate::error::Error;

/// Kinds of content beyond text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modalities {
    /// An image is in the input.
    pub image_input: bool,
    /// Audio is in the input.
    pub audio_input: bool,
    /// A file or document is in the input.
    pub file_input: bool,
    /// A video is in the input.
    pub video_input: bool,
    /// Audio is asked for.
    pub audio_output: bool,
    /// An image is asked for.
    pub image_output: bool,
}

/// What is known of a request.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What is asked.
    pub operation: Operation,
    /// The model named; never empty, at most 256 bytes, no control characters.
    pub model: Option<String>,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// Whether the caller asked for usage on the stream.
    pub wants_usage: bool,
    /// The most output tokens of one answer that the caller allows.
    pub max_output_tokens: Option<u64>,
    /// How many answers are asked for, at least 1.
    pub choices: u64,
    /// How many tools are offered.
    pub tools: u32,
    /// The caller's own user, from `user` or `safety_identifier`; at most 256 bytes.
    pub end_user: Option<String>,
    /// Kinds of content beyond text.
    pub modalities: Modalities,
    /// Bytes of input text.
    pub input_text_bytes: u64,
}

impl Facts {
    /// The body for a target.
    pub fn body_for(&self, body: &Bytes, _model: &str, _ask_usage: bool) -> Bytes {
        body.clone()
    }
}

/// Understands a request body.
pub fn understand(operation: Operation, _content_type: Option<&str>, _body: &Bytes) -> Result<Facts, Error> {
    Ok(Facts {
        operation,
        model: None,
        stream: false,
        wants_usage: false,
        max_output_tokens: None,
        choices: 1,
        tools: 0,
        end_user: None,
        modalities: Modalities::default(),
        input_text_bytes: 0,
    })
}
