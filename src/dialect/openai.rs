//! What a request in OpenAI's language says, read in the same pass that validates it.
//!
//! Promises: a body that is understood is valid JSON with one reading (see `json`), its model has a name that fits a
//! header, and the fields that Marg acts on have the types that OpenAI documents; a wrong one is refused with its name.
//! Every other field passes unseen. A body that is not JSON is understood only as `multipart/form-data` or
//! `application/x-www-form-urlencoded`; of anything else nothing is known. `body_for` gives the bytes for a target: the caller's own, with at most two documented splices
//! (`golden::bodies_change_only_where_documented`).
//!
//! *Source* for fields and types: <https://platform.openai.com/docs/api-reference>, pages chat, completions, embeddings,
//! responses, images, audio.

use bytes::Bytes;

use crate::dialect::form;
use crate::dialect::json::{self, Fault, JsonError};
use crate::dialect::operation::Operation;
use crate::dialect::others::names_models;
use crate::dialect::shape::{Field, Seen, Shape};
use crate::dialect::splice::{CeilingField, Changes, Json, Splice, StreamOptions};
use crate::dialect::value::Value;
use crate::error::{Error, Kind};

/// The longest name of a model, in bytes.
pub(super) const MODEL_LIMIT_BYTES: usize = 256;
pub(super) const END_USER_LIMIT_BYTES: usize = 256;
const REFERENCE_LIMIT_BYTES: usize = 256;
pub(super) const CHOICES_LIMIT: u64 = 128;
/// How often a tool of the provider is called within one answer, at most, where the request does not say.
const TOOL_CALLS: u64 = 16;
const KIND_LIMIT_BYTES: usize = 32;

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

/// What is known of a request, and where its body can be changed. Belongs to the one body that it was read from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What is asked.
    pub operation: Operation,
    /// The model named; never empty, at most 256 bytes, no control characters. `None` if the body names none, and then
    /// `look_beyond` looks for it in the path and the query.
    pub model: Option<String>,
    /// A field is written like `model` but in other letters; there are providers that take it for the model.
    pub miswrites_model: bool,
    /// The body is JSON or a form, so that what it does not say it says nowhere.
    pub is_read: bool,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// Whether the caller asked for usage on the stream (`stream_options.include_usage`, or `usage.include` as OpenRouter's
    /// callers do).
    pub wants_usage: bool,
    /// The most output tokens of one answer that the caller allows, in tokens.
    pub max_output_tokens: Option<u64>,
    /// How many answers are asked for, at least 1: `n` or `best_of`, times the number of prompts.
    pub choices: u64,
    /// How many tools are offered.
    pub tools: u32,
    /// The caller's own user, from `user` or `safety_identifier`; at most 256 bytes, cut off behind.
    pub end_user: Option<String>,
    /// Kinds of content beyond text.
    pub modalities: Modalities,
    /// Bytes of text that the model will read: strings as they are written, without media and links. An estimate, for
    /// sizing; `text::request_text` is what is counted.
    pub input_text_bytes: u64,
    /// An upper bound of the tokens that the model reads, images left out: no token of text is shorter than a byte; audio and
    /// files by what the dearest reading of them takes.
    pub input_tokens_most: u64,
    /// How many images the model sees.
    pub images: u64,
    /// Reasoning is asked for by name.
    pub reasoning: bool,
    /// The most tokens of reasoning that are asked for by number.
    pub reasoning_tokens: u64,
    /// The provider may turn to other models than `model`; `others::Facts::other_models` names them.
    pub lists_models: bool,
    /// The stored answer that this request goes on from (`previous_response_id`), at most 256 bytes.
    pub continues: Option<String>,
    /// The model reads something that is not in the body: a conversation, a stored prompt, file or item, a link to a file, what a
    /// tool of the provider finds.
    pub refers: bool,
    /// The tier of service asked for, at most 32 bytes.
    pub service_tier: Option<String>,
    /// The most images that may be drawn: what is asked for, or as often as a tool that draws may be called.
    pub images_drawn: u64,
    /// The size of the images asked for, at most 32 bytes; `None` leaves it to the provider (`auto`).
    pub image_size: Option<String>,
    /// Their quality, likewise.
    pub image_quality: Option<String>,
    pub(super) splice: Splice,
}

impl Facts {
    /// The body for one target: the same bytes (by reference count) if nothing changes, else a copy in which
    /// - the value of `model`, if the body names one, is replaced when another one is asked for,
    /// - if usage is to be asked for, a chat or completions stream whose options do not ask for it gets
    ///   `"stream_options":{"include_usage":true}`: as a new first member, in place of a `null`, or as `include_usage`
    ///   inside the options that are there, and
    /// - a ceiling on output tokens stands as a new first member, or in place of a `null` of its name.
    ///
    /// Every other byte stays. `body` is the body that these facts were read from. Control characters in `model` are
    /// dropped, so it can add neither a part to a form nor a line to a head.
    pub fn body_for(&self, body: &Bytes, changes: &Changes<'_>) -> Bytes {
        let streams = matches!(self.operation, Operation::Chat | Operation::Completions) && self.stream;
        let model = changes.model.filter(|model| self.model.as_deref().is_some_and(|named| named != *model));
        let ask_usage = changes.ask_usage && streams;
        self.splice.apply(body, &Changes { model, ask_usage, ceiling: changes.ceiling })
    }

    /// Whether a ceiling on output tokens can be put into the body.
    pub fn takes_ceiling(&self) -> bool {
        matches!(self.operation, Operation::Chat | Operation::Completions | Operation::Responses) && self.is_object()
    }

    /// Whether the body is a JSON object.
    pub(super) fn is_object(&self) -> bool {
        matches!(self.splice, Splice::Json(_))
    }

    pub(super) fn empty(operation: Operation) -> Self {
        Self {
            operation,
            model: None,
            miswrites_model: false,
            is_read: false,
            stream: false,
            wants_usage: false,
            max_output_tokens: None,
            choices: 1,
            tools: 0,
            end_user: None,
            modalities: Modalities::default(),
            input_text_bytes: 0,
            input_tokens_most: 0,
            images: 0,
            reasoning: false,
            reasoning_tokens: 0,
            lists_models: false,
            continues: None,
            refers: false,
            service_tier: None,
            images_drawn: u64::from(operation == Operation::Images),
            image_size: None,
            image_quality: None,
            splice: Splice::Nothing,
        }
    }
}

/// Reads a request body.
///
/// Chat, completions, embeddings, responses, moderations and rerank bodies must be JSON objects whatever the content type
/// says, as users expect who leave the header away. Images and audio may be forms. A body that passes through must be JSON
/// if its content type says so, or says nothing and it begins like an object; under any other content type it is read if
/// it is JSON, as curl calls JSON a form where nobody tells it otherwise. Of a body that passes through only `model` must have its type; other fields that are odd are not known.
///
/// # Errors
/// `InvalidRequest`, with the name of the field at fault if one is.
///
/// *Cost*: one pass over the body (several GB/s in strings); allocates only what the facts hold.
pub fn understand(operation: Operation, content_type: Option<&str>, body: &Bytes) -> Result<Facts, Error> {
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let must_be_json = match operation {
        Operation::Models | Operation::Model => return Ok(Facts::empty(operation)),
        Operation::Images | Operation::Audio | Operation::Passthrough => false,
        _ => true,
    };
    if !must_be_json && media_type == "multipart/form-data" {
        return form::multipart(operation, content_type.unwrap_or_default(), body);
    }
    let says_json = media_type == "application/json" || media_type.ends_with("+json");
    let looks_json = body.trim_ascii_start().starts_with(b"{");
    if !must_be_json && media_type == "application/x-www-form-urlencoded" {
        return form::urlencoded(operation, body);
    }
    if must_be_json || (media_type.is_empty() && looks_json) || (says_json && !body.trim_ascii().is_empty()) {
        return object(operation, body);
    }
    if looks_json {
        // Called something else, it may still be read as JSON behind Marg; lines of JSON and the like are not.
        return match json::scan(body, &mut ()) {
            Ok(()) | Err(JsonError { fault: Fault::TwiceKey(_) | Fault::TooDeep, .. }) => object(operation, body),
            Err(_) => Ok(Facts::empty(operation)),
        };
    }
    Ok(Facts::empty(operation))
}

pub(super) fn invalid(text: impl Into<std::borrow::Cow<'static, str>>, param: &'static str) -> Error {
    Error::new(Kind::InvalidRequest, text).param(param)
}

pub(super) fn object(operation: Operation, body: &Bytes) -> Result<Facts, Error> {
    let mut shape = Shape::new(body);
    json::scan(body, &mut shape)?;
    let Some(inside) = shape.object else {
        // What passes through need not be an object; the endpoints that Marg knows take nothing else.
        return match operation {
            Operation::Passthrough => Ok(Facts::empty(operation)),
            _ => Err(Error::new(Kind::InvalidRequest, "the body must be a JSON object")),
        };
    };
    if let Some(field) = shape.miswritten.filter(|_| operation != Operation::Passthrough) {
        let text = format!("a field is written like `{0}` but in other letters; write `{0}`", field.name());
        return Err(invalid(text, field.name()));
    }
    Reading { operation, body, shape: &shape }.facts(inside)
}

/// A scanned body and what was seen of it.
struct Reading<'a> {
    operation: Operation,
    body: &'a [u8],
    shape: &'a Shape<'a>,
}

impl Reading<'_> {
    /// All that the gateway must know; `inside` is where the body's members begin.
    fn facts(&self, inside: usize) -> Result<Facts, Error> {
        self.check_required()?;
        let (model, stream) = (self.model()?, self.boolean(Field::Stream)?.unwrap_or(false));
        let stream_options = self.stream_options()?;
        Ok(Facts {
            operation: self.operation,
            model,
            miswrites_model: self.shape.miswrites_model,
            is_read: true,
            stream,
            wants_usage: matches!(stream_options, StreamOptions::Asked) || self.includes_usage(),
            max_output_tokens: self.max_output_tokens()?,
            choices: self.choices()?,
            tools: self.tools()?,
            end_user: self.end_user(),
            modalities: self.modalities(),
            input_text_bytes: self.shape.text_bytes,
            input_tokens_most: self.input_tokens_most(),
            images: self.images(),
            reasoning: self.reasoning(),
            reasoning_tokens: self.reasoning_tokens(),
            lists_models: self.lists_models(),
            continues: self.continues(),
            refers: self.refers(),
            service_tier: self.service_tier(),
            images_drawn: self.images_drawn()?,
            image_size: self.image_kind(Field::Size),
            image_quality: self.image_kind(Field::Quality),
            splice: Splice::Json(Json {
                inside,
                empty: self.body.get(inside..).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"}")),
                model: self.shape.seen(Field::Model).map(|seen| seen.span.clone()),
                stream_options,
                null_ceilings: self.null_ceilings(),
            }),
        })
    }

    fn seen(&self, field: Field) -> Option<&Seen> {
        self.shape.seen(field).filter(|seen| seen.kind != json::Type::Null)
    }

    fn value(&self, field: Field) -> Option<Value<'_>> {
        Value::first(self.body.get(self.seen(field)?.span.clone())?)
    }

    fn check_required(&self) -> Result<(), Error> {
        match self.operation {
            Operation::Chat => self.check_messages(),
            Operation::Completions if self.shape.seen(Field::Prompt).is_none() => {
                Err(invalid("you must provide a prompt parameter", "prompt"))
            }
            Operation::Embeddings if self.seen(Field::Input).is_none() => {
                Err(invalid("you must provide an input parameter", "input"))
            }
            _ => Ok(()),
        }
    }

    fn check_messages(&self) -> Result<(), Error> {
        let Some(seen) = self.seen(Field::Messages) else {
            return Err(invalid("you must provide a messages parameter", "messages"));
        };
        if seen.kind != json::Type::Array {
            return Err(invalid("messages must be an array of objects", "messages"));
        }
        if seen.children == 0 {
            return Err(invalid("messages must hold at least one message", "messages"));
        }
        if let Some(index) = seen.first_other_child {
            return Err(invalid(format!("messages[{index}] must be an object"), "messages"));
        }
        Ok(())
    }

    fn model(&self) -> Result<Option<String>, Error> {
        let required = matches!(self.operation, Operation::Chat | Operation::Completions | Operation::Embeddings);
        let Some(value) = self.value(Field::Model) else {
            return if required { Err(invalid("you must provide a model parameter", "model")) } else { Ok(None) };
        };
        match value.string() {
            Some(name) => model_name(&name).map(Some),
            None => Err(invalid("model must be a string", "model")),
        }
    }

    /// A field of the wrong type: refused, unless the body only passes through.
    fn wrong<T>(&self, field: Field, must: &str) -> Result<Option<T>, Error> {
        if self.operation == Operation::Passthrough {
            return Ok(None);
        }
        Err(invalid(format!("{} must be {must}", field.name()), field.name()))
    }

    fn boolean(&self, field: Field) -> Result<Option<bool>, Error> {
        match self.value(field).map(Value::boolean) {
            // Of what passes through nobody knows how an odd one is read; it is asked for by none without a reason.
            Some(None) => Ok(Some(self.wrong(field, "true or false")?.unwrap_or(true))),
            found => Ok(found.flatten()),
        }
    }

    fn count(&self, field: Field, must: &str) -> Result<Option<u64>, Error> {
        match self.value(field).map(Value::u64) {
            Some(None) => self.wrong(field, must),
            found => Ok(found.flatten()),
        }
    }

    /// The largest of the ceilings that are written, as providers differ in which one they obey; but none where none of those
    /// is that the operation knows, as the provider may obey none of the others.
    fn max_output_tokens(&self) -> Result<Option<u64>, Error> {
        const ALL: [Field; 3] = [Field::MaxCompletionTokens, Field::MaxOutputTokens, Field::MaxTokens];
        let is_own = |field: Field| match self.operation {
            Operation::Chat => field != Field::MaxOutputTokens,
            Operation::Completions => field == Field::MaxTokens,
            Operation::Responses => field == Field::MaxOutputTokens,
            _ => true,
        };
        // Some servers read 0 as no ceiling; where a completion of no tokens has a use, it is taken at its word.
        let (least, must) = match self.operation {
            Operation::Completions => (0, "a whole number of 0 or more"),
            _ => (1, "a whole number of 1 or more"),
        };
        let (mut most, mut is_bound) = (None, false);
        for field in ALL {
            let Some(count) = self.count(field, must)? else {
                // Of what passes through nobody knows how an odd one is read.
                if self.seen(field).is_some() {
                    return Ok(None);
                }
                continue;
            };
            if count < least {
                return self.wrong(field, must);
            }
            (most, is_bound) = (most.max(Some(count)), is_bound || is_own(field));
        }
        Ok(most.filter(|_| is_bound))
    }

    /// Ceilings that are written but `null`, which counts as not written.
    fn null_ceilings(&self) -> Vec<(CeilingField, std::ops::Range<usize>)> {
        let fields = [
            (Field::MaxTokens, CeilingField::MaxTokens),
            (Field::MaxCompletionTokens, CeilingField::MaxCompletionTokens),
            (Field::MaxOutputTokens, CeilingField::MaxOutputTokens),
        ];
        let null = |field| self.shape.seen(field).filter(|seen| seen.kind == json::Type::Null);
        fields.into_iter().filter_map(|(field, name)| Some((name, null(field)?.span.clone()))).collect()
    }

    /// Everything but media is text of which no token is shorter than a byte.
    fn input_tokens_most(&self) -> u64 {
        let media = self.shape.media;
        let text = (self.body.len() as u64).saturating_sub(media.bytes);
        // Audio is about ten tokens a second, and a second takes at least five kilobytes; a file is text at four bytes a token.
        text + media.file_bytes / 4 + media.bytes / 256
    }

    fn lists_models(&self) -> bool {
        use Field::{ContentPolicyFallbacks, ContextWindowFallbacks, DefaultFallbacks, Fallbacks, Models};
        let lists = [Models, Fallbacks, ContextWindowFallbacks, ContentPolicyFallbacks, DefaultFallbacks];
        let spans = [Field::Tools, Field::Plugins].into_iter().filter_map(|field| self.seen(field));
        let mut tools = spans.filter_map(|seen| self.body.get(seen.span.clone())).map(Value::whole);
        lists.into_iter().any(|field| self.seen(field).is_some()) || tools.any(names_models)
    }

    fn images(&self) -> u64 {
        let modalities = self.shape.modalities;
        if modalities.image_input || modalities.video_input { self.shape.media.items } else { 0 }
    }

    fn reasoning(&self) -> bool {
        let fields = [Field::ReasoningEffort, Field::Reasoning, Field::Thinking, Field::ThinkingBudget];
        fields.into_iter().any(|field| self.seen(field).is_some())
    }

    /// *Source*: `thinking_budget` at DashScope, `thinking.budget_tokens` at Anthropic, `reasoning.max_tokens` at OpenRouter.
    fn reasoning_tokens(&self) -> u64 {
        let inside = |field, name| self.value(field)?.present(name)?.u64();
        let plain = self.value(Field::ThinkingBudget).and_then(Value::u64);
        let all = [plain, inside(Field::Thinking, "budget_tokens"), inside(Field::Reasoning, "max_tokens")];
        all.into_iter().flatten().max().unwrap_or(0)
    }

    fn continues(&self) -> Option<String> {
        let id = self.value(Field::PreviousResponseId)?.string()?;
        (!id.is_empty()).then(|| cut(&id, REFERENCE_LIMIT_BYTES).to_owned())
    }

    fn refers(&self) -> bool {
        self.shape.refers || self.has_stored_prompt() || self.seen(Field::Conversation).is_some() || self.looks_up()
    }

    /// Whether a field has the provider search, or run tools of its own, whose findings the model reads.
    ///
    /// *Source*: `web_search_options` in <https://platform.openai.com/docs/api-reference/chat/create>; `search_parameters.mode` in
    /// <https://docs.x.ai/docs/guides/live-search>; `enable_search` in <https://help.aliyun.com/zh/model-studio/web-search>; `mcp_servers` in
    /// <https://docs.anthropic.com/en/docs/agents-and-tools/mcp-connector>; `plugins` in
    /// <https://openrouter.ai/docs/guides/features/plugins>.
    fn looks_up(&self) -> bool {
        // These read or mend what is in the body, or in the answer, or choose the model.
        const HARMLESS: [&str; 3] = ["file-parser", "response-healing", "auto-router"];
        let is_off = |value: Value<'_>| value.boolean() == Some(false);
        let fields = [Field::WebSearchOptions, Field::EnableSearch];
        let is_on = fields.into_iter().filter_map(|field| self.value(field)).any(|value| !is_off(value));
        let mode = |value: Value<'_>| value.present("mode").and_then(Value::string).is_some_and(|mode| mode == "off");
        let searches = self.value(Field::SearchParameters).is_some_and(|value| !is_off(value) && !mode(value));
        let servers = self.seen(Field::McpServers).is_some_and(|seen| seen.children > 0);
        let mut plugins = self.value(Field::Plugins).into_iter().flat_map(Value::elements);
        let finds = |plugin: Value<'_>| {
            let id = plugin.present("id").and_then(Value::string).unwrap_or_default();
            !HARMLESS.contains(&&*id) && !plugin.present("enabled").is_some_and(is_off)
        };
        is_on || searches || servers || plugins.any(finds)
    }

    /// *Source*: `prompt` in <https://platform.openai.com/docs/api-reference/responses/create>.
    fn has_stored_prompt(&self) -> bool {
        let is_object = |seen: &Seen| seen.kind == json::Type::Object;
        self.operation == Operation::Responses && self.seen(Field::Prompt).is_some_and(is_object)
    }

    fn service_tier(&self) -> Option<String> {
        self.value(Field::ServiceTier)?.string().map(|tier| cut(&tier, 32).to_owned())
    }

    /// *Source*: `n` of <https://platform.openai.com/docs/api-reference/images/create>; the tool `image_generation` and
    /// `max_tool_calls` of <https://platform.openai.com/docs/api-reference/responses/create>.
    fn images_drawn(&self) -> Result<u64, Error> {
        match self.operation {
            Operation::Images => self.choices(),
            Operation::Responses if self.shape.draws => Ok(self
                .count(Field::MaxToolCalls, "a whole number of 0 or more")?
                .unwrap_or(TOOL_CALLS)
                .min(CHOICES_LIMIT)),
            _ => Ok(0),
        }
    }

    /// The size or quality of the images of an images request; other requests name them inside a tool.
    fn image_kind(&self, field: Field) -> Option<String> {
        let value = self.value(field).filter(|_| self.operation == Operation::Images)?;
        kind_of_image(&value.string()?)
    }

    fn choices(&self) -> Result<u64, Error> {
        let mut most = 1;
        for field in [Field::N, Field::BestOf] {
            let must = "a whole number between 1 and 128";
            let count = match self.count(field, must)? {
                Some(count) if (1..=CHOICES_LIMIT).contains(&count) => Some(count),
                Some(_) => Some(self.wrong(field, must)?.unwrap_or(CHOICES_LIMIT)),
                // Of what passes through nobody knows how an odd one is read.
                None => self.seen(field).map(|_| CHOICES_LIMIT),
            };
            most = most.max(count.unwrap_or(1));
        }
        // A list of prompts asks for answers to each; a list of numbers is one prompt in tokens.
        let prompts = self.seen(Field::Prompt).filter(|_| self.operation == Operation::Completions);
        let many = prompts.filter(|seen| seen.kind == json::Type::Array && !seen.children_are_numbers);
        Ok(most.saturating_mul(many.map_or(1, |seen| u64::from(seen.children).max(1))))
    }

    fn tools(&self) -> Result<u32, Error> {
        let mut total = 0_u32;
        for field in [Field::Tools, Field::Functions] {
            total = total.saturating_add(match self.seen(field) {
                Some(seen) if seen.kind == json::Type::Array => seen.children,
                Some(_) => self.wrong(field, "an array")?.unwrap_or(0),
                None => 0,
            });
        }
        // What brings tools along without listing them: OpenAI's search in chat, OpenRouter's plugins, Anthropic's MCP servers.
        // xAI's and DashScope's searches, and what a stored prompt of OpenAI's brings along.
        let fields = [Field::WebSearchOptions, Field::Plugins, Field::McpServers, Field::SearchParameters];
        for seen in fields.into_iter().filter_map(|field| self.seen(field)) {
            total = total.saturating_add(match seen.kind {
                json::Type::Array => seen.children,
                kind => u32::from(kind == json::Type::Object),
            });
        }
        let searches = self.value(Field::EnableSearch).is_some_and(|on| on.boolean() != Some(false));
        Ok(total.saturating_add(u32::from(searches)).saturating_add(u32::from(self.has_stored_prompt())))
    }

    fn end_user(&self) -> Option<String> {
        let value = self.value(Field::User).or_else(|| self.value(Field::SafetyIdentifier))?;
        let name = value.string()?;
        (!name.is_empty()).then(|| cut(&name, END_USER_LIMIT_BYTES).to_owned())
    }

    fn modalities(&self) -> Modalities {
        let mut modalities = self.shape.modalities;
        modalities.image_output |= self.operation == Operation::Images;
        if let Some(asked) = self.value(Field::Modalities) {
            for name in asked.elements().filter_map(Value::string) {
                modalities.audio_output |= name == "audio";
                modalities.image_output |= name == "image";
            }
        }
        modalities
    }

    /// *Source*: <https://openrouter.ai/docs/use-cases/usage-accounting>.
    fn includes_usage(&self) -> bool {
        let include = self.value(Field::Usage).and_then(|usage| usage.get("include"));
        include.and_then(Value::boolean) == Some(true)
    }

    fn stream_options(&self) -> Result<StreamOptions, Error> {
        let Some(seen) = self.shape.seen(Field::StreamOptions) else { return Ok(StreamOptions::Absent) };
        if !matches!(self.operation, Operation::Chat | Operation::Completions) {
            return Ok(StreamOptions::Absent);
        }
        match seen.kind {
            json::Type::Null => return Ok(StreamOptions::Null(seen.span.clone())),
            json::Type::Object => {}
            _ => return Err(invalid("stream_options must be an object", "stream_options")),
        }
        let raw = self.body.get(seen.span.clone()).unwrap_or_default();
        let flag = json::members(raw)?.into_iter().find(|member| member.key.decode(raw) == "include_usage");
        let Some(flag) = flag else {
            return Ok(StreamOptions::Silent { inside: seen.span.start + 1, empty: seen.children == 0 });
        };
        match raw.get(flag.value.clone()).unwrap_or_default() {
            b"true" => Ok(StreamOptions::Asked),
            b"false" | b"null" => {
                let start = seen.span.start;
                Ok(StreamOptions::Declined(start + flag.value.start..start + flag.value.end))
            }
            _ => Err(invalid("stream_options.include_usage must be true or false", "stream_options.include_usage")),
        }
    }
}

/// A size or quality of images as prices name it; `None` for what leaves the choice to the provider.
pub(super) fn kind_of_image(word: &str) -> Option<String> {
    let word = word.trim();
    (!word.is_empty() && word != "auto").then(|| cut(word, KIND_LIMIT_BYTES).to_owned())
}

/// Checks the name of a model.
pub(super) fn model_name(name: &str) -> Result<String, Error> {
    if name.trim().is_empty() {
        return Err(invalid("you must provide a model parameter", "model"));
    }
    if name.len() > MODEL_LIMIT_BYTES {
        return Err(invalid("the model's name is longer than 256 bytes", "model"));
    }
    if name.chars().any(char::is_control) {
        return Err(invalid("the model's name holds a control character", "model"));
    }
    Ok(name.to_owned())
}

/// The beginning of a text, at most so many bytes, cut between characters.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
