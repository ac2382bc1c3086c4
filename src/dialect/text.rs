//! The human text of requests and answers, for counting tokens that no provider reported.

use crate::dialect::operation::Operation;

/// The text of a request.
pub fn request_text(_operation: Operation, _body: &[u8]) -> String {
    String::new()
}

/// The text of a delivered answer.
pub fn delivered_text(_operation: Operation, _event_stream: bool, _body: &[u8]) -> String {
    String::new()
}
