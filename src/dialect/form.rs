//! Facts of a request whose body is a form, in parts or in the manner of a query.

use bytes::Bytes;

use crate::dialect::multipart::{self, Form};
use crate::dialect::openai::{
    CHOICES_LIMIT, END_USER_LIMIT_BYTES, Facts, cut, invalid, kind_of_image, model_name, object,
};
use crate::dialect::operation::Operation;
use crate::dialect::splice::Splice;
use crate::dialect::{json, urlencoded};
use crate::error::Error;

/// Reads a body that calls itself a form in the manner of a query. If it is JSON, it may not be both.
pub(super) fn urlencoded(operation: Operation, body: &Bytes) -> Result<Facts, Error> {
    let form = urlencoded::read(body)?;
    if begins_like_json(body) {
        // Servers that do not look at the content type read the JSON, and some of them no further than its end.
        return match form.model {
            None if json::scan(body, &mut ()).is_ok() => object(operation, body),
            _ => {
                Err(invalid("the body is called a form and begins like JSON; its content type must say which", "model"))
            }
        };
    }
    let mut facts = of_form(&form, operation, body.len());
    facts.input_tokens_most = body.len() as u64;
    if let Some(span) = form.model {
        let name = urlencoded::decoded(body.get(span.clone()).unwrap_or_default());
        let name = std::str::from_utf8(&name).map_err(|_| invalid("the model's name is not UTF-8", "model"))?;
        facts.model = Some(model_name(name)?);
        facts.splice = Splice::Urlencoded { model: span };
    }
    Ok(facts)
}

/// Whether somebody who expects JSON would begin to read this as such.
fn begins_like_json(body: &[u8]) -> bool {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start();
    matches!(text.first(), Some(b'{' | b'['))
}

/// Reads a body that is a form in parts.
pub(super) fn multipart(operation: Operation, content_type: &str, body: &Bytes) -> Result<Facts, Error> {
    let form = multipart::read(content_type, body)?;
    let mut facts = of_form(&form, operation, body.len());
    if let Some(span) = form.model {
        let raw = body.get(span.clone()).unwrap_or_default();
        let name = std::str::from_utf8(raw).map_err(|_| invalid("the model's name is not UTF-8", "model"))?;
        facts.model = Some(model_name(name)?);
        facts.splice = Splice::Form { model: span };
    }
    Ok(facts)
}

/// What a form says beside its model.
fn of_form(form: &Form, operation: Operation, body_bytes: usize) -> Facts {
    let mut facts = Facts::empty(operation);
    facts.is_read = true;
    facts.stream = form.stream;
    facts.choices = form.choices.unwrap_or(1).clamp(1, CHOICES_LIMIT);
    facts.end_user = form.end_user.as_deref().map(|user| cut(user, END_USER_LIMIT_BYTES).to_owned());
    facts.input_text_bytes = form.text_bytes;
    // Audio is about ten tokens a second, and a second takes at least five kilobytes.
    facts.input_tokens_most = form.text_bytes + (body_bytes as u64) / 256;
    facts.images = u64::from(form.files && operation == Operation::Images);
    facts.modalities.audio_input = form.files && operation == Operation::Audio;
    facts.modalities.image_input = form.files && operation == Operation::Images;
    facts.modalities.image_output = operation == Operation::Images;
    if operation == Operation::Images {
        facts.images_drawn = facts.choices;
        facts.image_size = form.size.as_deref().and_then(kind_of_image);
        facts.image_quality = form.quality.as_deref().and_then(kind_of_image);
    }
    facts
}
