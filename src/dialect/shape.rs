//! The visitor that notes, while a body is validated, the fields that Marg acts on.
//!
//! It keeps a span and a little arithmetic for each field that it knows and nothing of the rest, so its memory does not
//! grow with the body.

use std::ops::Range;

use crate::dialect::json::{Text, Type, Visit};
use crate::dialect::openai::Modalities;
use crate::dialect::value::unescape;

/// A top-level field that Marg acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Field {
    Model,
    Stream,
    StreamOptions,
    Usage,
    Messages,
    Prompt,
    Input,
    N,
    BestOf,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    Tools,
    Functions,
    WebSearchOptions,
    Plugins,
    McpServers,
    User,
    SafetyIdentifier,
    Modalities,
    ReasoningEffort,
    Reasoning,
    Thinking,
    ServiceTier,
    PreviousResponseId,
    Conversation,
    ThinkingBudget,
    SearchParameters,
    EnableSearch,
    Models,
    Fallbacks,
    ContextWindowFallbacks,
    ContentPolicyFallbacks,
    DefaultFallbacks,
    Size,
    Quality,
    MaxToolCalls,
}

/// Every field with its name on the wire, in the order of the enumeration.
const FIELDS: [(Field, &str); 37] = [
    (Field::Model, "model"),
    (Field::Stream, "stream"),
    (Field::StreamOptions, "stream_options"),
    (Field::Usage, "usage"),
    (Field::Messages, "messages"),
    (Field::Prompt, "prompt"),
    (Field::Input, "input"),
    (Field::N, "n"),
    (Field::BestOf, "best_of"),
    (Field::MaxTokens, "max_tokens"),
    (Field::MaxCompletionTokens, "max_completion_tokens"),
    (Field::MaxOutputTokens, "max_output_tokens"),
    (Field::Tools, "tools"),
    (Field::Functions, "functions"),
    (Field::WebSearchOptions, "web_search_options"),
    (Field::Plugins, "plugins"),
    (Field::McpServers, "mcp_servers"),
    (Field::User, "user"),
    (Field::SafetyIdentifier, "safety_identifier"),
    (Field::Modalities, "modalities"),
    (Field::ReasoningEffort, "reasoning_effort"),
    (Field::Reasoning, "reasoning"),
    (Field::Thinking, "thinking"),
    (Field::ServiceTier, "service_tier"),
    (Field::PreviousResponseId, "previous_response_id"),
    (Field::Conversation, "conversation"),
    (Field::ThinkingBudget, "thinking_budget"),
    (Field::SearchParameters, "search_parameters"),
    (Field::EnableSearch, "enable_search"),
    (Field::Models, "models"),
    (Field::Fallbacks, "fallbacks"),
    (Field::ContextWindowFallbacks, "context_window_fallbacks"),
    (Field::ContentPolicyFallbacks, "content_policy_fallbacks"),
    (Field::DefaultFallbacks, "default_fallbacks"),
    (Field::Size, "size"),
    (Field::Quality, "quality"),
    (Field::MaxToolCalls, "max_tool_calls"),
];

impl Field {
    /// Its name on the wire.
    pub(super) fn name(self) -> &'static str {
        FIELDS.get(self as usize).map_or("", |(_, name)| name)
    }
}

/// What was seen of a field.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) kind: Type,
    pub(super) span: Range<usize>,
    /// Elements or members, if it is a container.
    pub(super) children: u32,
    /// The position of the first child that is not an object.
    pub(super) first_other_child: Option<u32>,
    /// Every child is a number.
    pub(super) children_are_numbers: bool,
}

/// The visitor.
pub(super) struct Shape<'a> {
    document: &'a [u8],
    seen: [Option<Seen>; FIELDS.len()],
    /// The top-level field that the scanner is in.
    current: Option<Field>,
    /// The scanner is in a top-level member whose strings the model reads.
    reads_text: bool,
    /// Where the top-level object begins, behind its brace.
    pub(super) object: Option<usize>,
    pub(super) text_bytes: u64,
    pub(super) media: Media,
    pub(super) modalities: Modalities,
    /// The model reads something that is not in the body: a stored file or item, a link to a file, what a tool of the provider
    /// finds.
    pub(super) refers: bool,
    /// The provider's own tool that draws images is offered.
    pub(super) draws: bool,
    /// A known field in other letters than its own, such as `MAX_TOKENS`: there are providers that take it for the field.
    pub(super) miswritten: Option<Field>,
    /// The model is among those.
    pub(super) miswrites_model: bool,
}

/// Media and links in what a model reads: how many there are, and how many bytes of the body they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Media {
    pub(super) items: u64,
    pub(super) bytes: u64,
    /// The bytes of those that are files.
    pub(super) file_bytes: u64,
}

impl<'a> Shape<'a> {
    pub(super) fn new(document: &'a [u8]) -> Self {
        Self {
            document,
            seen: [const { None }; FIELDS.len()],
            current: None,
            reads_text: false,
            object: None,
            text_bytes: 0,
            media: Media::default(),
            modalities: Modalities::default(),
            refers: false,
            draws: false,
            miswritten: None,
            miswrites_model: false,
        }
    }

    pub(super) fn seen(&self, field: Field) -> Option<&Seen> {
        self.seen.get(field as usize)?.as_ref()
    }

    fn enter_field(&mut self, key: Text, kind: Type, span: Range<usize>) {
        let name = key.decode(self.document);
        self.current = FIELDS.iter().find(|(_, other)| *other == name).map(|(field, _)| *field);
        if self.current.is_none() {
            let miswritten =
                FIELDS.iter().find(|(_, other)| other.eq_ignore_ascii_case(&name)).map(|(field, _)| *field);
            self.miswritten = self.miswritten.or(miswritten);
            self.miswrites_model |= miswritten == Some(Field::Model);
        }
        self.reads_text = matches!(
            &*name,
            "messages"
                | "prompt"
                | "input"
                | "instructions"
                | "tools"
                | "functions"
                | "response_format"
                | "text"
                | "suffix"
                | "query"
                | "documents"
                | "system"
        );
        if let Some(slot) = self.current.and_then(|field| self.seen.get_mut(field as usize)) {
            *slot = Some(Seen { kind, span, children: 0, first_other_child: None, children_are_numbers: true });
        }
    }

    #[inline]
    fn child(&mut self, kind: Type) {
        if let Some(seen) = self.current.and_then(|field| self.seen.get_mut(field as usize)?.as_mut()) {
            if kind != Type::Object && seen.first_other_child.is_none() {
                seen.first_other_child = Some(seen.children);
            }
            seen.children_are_numbers &= kind == Type::Number;
            seen.children = seen.children.saturating_add(1);
        }
    }

    #[inline]
    fn text(&mut self, key: Option<Text>, span: &Range<usize>) {
        let key = key.and_then(|key| self.document.get(key.start..key.end)).unwrap_or_default();
        let written = if key.contains(&b'\\') { Some(unescape(key)) } else { None };
        match written.as_ref().map_or(key, |written| written.as_bytes()) {
            // Media and links are not text; their tokens are not a matter of bytes.
            b"url" | b"image_url" | b"data" | b"file_data" | b"b64_json" => {
                self.media.items += 1;
                self.media.bytes += span.len() as u64;
                if written.as_deref().map_or(key == b"file_data", |written| written == "file_data") {
                    self.media.file_bytes += span.len() as u64;
                }
                return;
            }
            b"file_id" | b"file_url" => {
                self.refers = true;
                return;
            }
            b"id" => return,
            b"type" => {
                let kind = self.document.get(span.start + 1..span.end.saturating_sub(1)).unwrap_or_default();
                if kind.contains(&b'\\') {
                    let kind = unescape(kind);
                    self.modality(kind.as_bytes());
                    self.reference(kind.as_bytes());
                } else {
                    self.modality(kind);
                    self.reference(kind);
                }
                return;
            }
            _ => {}
        }
        self.text_bytes = self.text_bytes.saturating_add(span.len().saturating_sub(2) as u64);
    }

    /// What the name of a member says of a part of a message: there are servers that need no `type` to see what a part is.
    ///
    /// *Source*: `MM_PARSER_MAP` and the parts without a type in vLLM's `vllm/entrypoints/chat_utils.py`; `audio.id` of an
    /// assistant's message in <https://platform.openai.com/docs/api-reference/chat/create>; parts without a type in
    /// <https://api.jina.ai/redoc>, embeddings.
    #[inline]
    fn member(&mut self, key: Text) {
        if !matches!(self.current, Some(Field::Messages | Field::Input)) {
            return;
        }
        let key = key.decode(self.document);
        match &*key {
            "image_url" | "input_image" | "image" | "image_base64" => self.modalities.image_input = true,
            "input_audio" | "audio_url" => self.modalities.audio_input = true,
            // An earlier answer that the provider keeps.
            "audio" => (self.modalities.audio_input, self.refers) = (true, true),
            "file" | "input_file" | "file_data" | "file_id" | "file_url" => self.modalities.file_input = true,
            "video_url" | "input_video" | "video" => self.modalities.video_input = true,
            _ => {}
        }
    }

    /// What is used by reference: items that the provider stores, and tools that it runs and whose findings the model reads.
    ///
    /// *Source*: `item_reference` and the tools of <https://platform.openai.com/docs/api-reference/responses/create>; `web_fetch` and
    /// `code_execution` of <https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/overview>; `browser_search` of
    /// <https://console.groq.com/docs/browser-search>; `x_search`, `live_search` and `collections_search` of <https://docs.x.ai/docs/guides>;
    /// `document_library` of <https://docs.mistral.ai/agents/connectors>; Gemini's in <https://ai.google.dev/gemini-api/docs/tools>;
    /// `openrouter:…` of <https://openrouter.ai/docs/guides/features/server-tools>.
    fn reference(&mut self, part_type: &[u8]) {
        const HOSTED: [&[u8]; 19] = [
            b"web_search",
            b"web_fetch",
            b"file_search",
            b"code_interpreter",
            b"code_execution",
            b"mcp",
            b"computer_use",
            b"browser_search",
            b"x_search",
            b"live_search",
            b"collections_search",
            b"document_library",
            b"openrouter:",
            b"google_search",
            b"googleSearch",
            b"url_context",
            b"urlContext",
            b"codeExecution",
            b"enterprise_web_search",
        ];
        let hosted = || HOSTED.iter().any(|name| part_type.starts_with(name));
        let tool = self.current == Some(Field::Tools);
        self.refers |= part_type == b"item_reference" || (tool && hosted());
        self.draws |= tool && part_type == b"image_generation";
    }

    /// *Source*: content parts of chat (`image_url`, `input_audio`, `file`; `video_url` at DashScope, vLLM and
    /// OpenRouter) and of responses (`input_image`, `input_file`).
    fn modality(&mut self, part_type: &[u8]) {
        match part_type {
            b"image_url" | b"input_image" | b"image" => self.modalities.image_input = true,
            b"input_audio" | b"audio_url" => self.modalities.audio_input = true,
            b"file" | b"input_file" | b"document" => self.modalities.file_input = true,
            b"video_url" | b"video" | b"input_video" => self.modalities.video_input = true,
            _ => {}
        }
    }
}

impl Visit for Shape<'_> {
    #[inline]
    fn scalar(&mut self, depth: usize, key: Option<Text>, kind: Type, span: Range<usize>) {
        match (depth, key) {
            (1, Some(key)) => {
                self.enter_field(key, kind, span.clone());
                // A name at the top, such as `type`, says nothing of content.
                if kind == Type::String && self.reads_text {
                    self.text(None, &span);
                }
                return;
            }
            (2, _) => self.child(kind),
            _ => {}
        }
        if kind == Type::String && self.reads_text {
            if let Some(key) = key {
                self.member(key);
            }
            self.text(key, &span);
        }
    }

    #[inline]
    fn open(&mut self, depth: usize, key: Option<Text>, kind: Type, at: usize) {
        match (depth, key) {
            (0, _) if kind == Type::Object => self.object = Some(at + 1),
            (1, Some(key)) => self.enter_field(key, kind, at..at),
            (2, _) => self.child(kind),
            // There are tools that have no type, but a member of their name: `{"googleSearch":{}}`.
            (3, Some(key)) if self.current == Some(Field::Tools) => {
                self.reference(key.decode(self.document).as_bytes())
            }
            (_, Some(key)) => self.member(key),
            _ => {}
        }
    }

    #[inline]
    fn close(&mut self, depth: usize, _kind: Type, end: usize) {
        if depth == 1
            && let Some(seen) = self.current.and_then(|field| self.seen.get_mut(field as usize)?.as_mut())
        {
            seen.span.end = end;
        }
    }
}
