use super::*;

fn chat(body: &str) -> Result<Facts, Error> {
    read(Operation::Chat, body)
}

fn read(operation: Operation, body: &str) -> Result<Facts, Error> {
    understand(operation, Some("application/json; charset=utf-8"), &Bytes::copy_from_slice(body.as_bytes()))
}

#[track_caller]
fn refused(operation: Operation, body: &str, text: &str, param: Option<&str>) {
    let error = read(operation, body).unwrap_err();
    assert_eq!((error.text(), error.field(), error.kind()), (text, param, Kind::InvalidRequest), "{body}");
}

#[test]
fn usage_is_asked_for_in_two_ways() {
    let wants = |more: &str| {
        let body = format!(r#"{{"model":"a","messages":[{{}}],"stream":true{more}}}"#);
        let facts = read(Operation::Chat, &body).unwrap();
        let sent = facts.body_for(&Bytes::from(body), &Changes { ask_usage: true, ..Changes::default() });
        let asks = String::from_utf8(sent.to_vec()).unwrap().matches("\"include_usage\":true").count();
        assert_eq!(asks, 1, "a provider is asked in the way that it knows: {more}");
        facts.wants_usage
    };
    for no in [
        "",
        r#","usage":null"#,
        r#","usage":{}"#,
        r#","usage":{"include":false}"#,
        r#","usage":true"#,
        r#","usage":{"include":1}"#,
    ] {
        assert!(!wants(no), "{no}");
    }
    for yes in [r#","usage":{"include":true}"#, r#","stream_options":{"include_usage":true}"#] {
        assert!(wants(yes), "{yes}");
    }
}

#[test]
fn a_chat_that_lacks_what_it_needs_is_refused_by_name() {
    let check = |body: &str, text: &str, param: &str| refused(Operation::Chat, body, text, Some(param));
    let m = "you must provide a model parameter";
    check(r#"{"messages":[{}]}"#, m, "model");
    check(r#"{"messages":[{}],"model":null}"#, m, "model");
    check(r#"{"messages":[{}],"model":""}"#, m, "model");
    check(r#"{"messages":[{}],"model":" \n"}"#, m, "model");
    check(r#"{"messages":[{}],"model":5}"#, "model must be a string", "model");
    check(r#"{"messages":[{}],"model":["a"]}"#, "model must be a string", "model");
    check(r#"{"messages":[{}],"model":"a\r\nx: y"}"#, "the model's name holds a control character", "model");
    check(r#"{"messages":[{}],"model":"a\u0000"}"#, "the model's name holds a control character", "model");
    let long = format!(r#"{{"messages":[{{}}],"model":"{}"}}"#, "m".repeat(257));
    refused(Operation::Chat, &long, "the model's name is longer than 256 bytes", Some("model"));
    check(r#"{"model":"a"}"#, "you must provide a messages parameter", "messages");
    check(r#"{"model":"a","messages":null}"#, "you must provide a messages parameter", "messages");
    check(r#"{"model":"a","messages":{}}"#, "messages must be an array of objects", "messages");
    check(r#"{"model":"a","messages":"hi"}"#, "messages must be an array of objects", "messages");
    check(r#"{"model":"a","messages":[]}"#, "messages must hold at least one message", "messages");
    check(r#"{"model":"a","messages":[{},{},"x",[]]}"#, "messages[2] must be an object", "messages");
}

#[test]
fn fields_of_the_wrong_type_are_refused_by_name() {
    let check = |field: &str, text, param| {
        refused(Operation::Chat, &format!(r#"{{"model":"a","messages":[{{}}],{field}}}"#), text, Some(param));
    };
    check(r#""stream":"true""#, "stream must be true or false", "stream");
    check(r#""stream":1"#, "stream must be true or false", "stream");
    check(r#""stream_options":[]"#, "stream_options must be an object", "stream_options");
    let flag = "stream_options.include_usage";
    check(r#""stream_options":{"include_usage":1}"#, "stream_options.include_usage must be true or false", flag);
    check(r#""n":0"#, "n must be a whole number between 1 and 128", "n");
    check(r#""n":129"#, "n must be a whole number between 1 and 128", "n");
    check(r#""n":-1"#, "n must be a whole number between 1 and 128", "n");
    check(r#""n":1.0"#, "n must be a whole number between 1 and 128", "n");
    check(r#""max_tokens":5.0"#, "max_tokens must be a whole number of 1 or more", "max_tokens");
    check(r#""max_tokens":"5""#, "max_tokens must be a whole number of 1 or more", "max_tokens");
    let limit = "max_completion_tokens";
    check(r#""max_completion_tokens":-5"#, "max_completion_tokens must be a whole number of 1 or more", limit);
    check(r#""tools":{}"#, "tools must be an array", "tools");
}

#[test]
fn bodies_that_are_not_json_objects_are_refused() {
    refused(Operation::Chat, "", "the body is not valid JSON: expected a value at byte 0", None);
    refused(Operation::Chat, "model=a", "the body is not valid JSON: expected a value at byte 0", None);
    refused(Operation::Chat, "[]", "the body must be a JSON object", None);
    refused(Operation::Embeddings, "\"a\"", "the body must be a JSON object", None);
    refused(
        Operation::Chat,
        r#"{"model":"cheap","mod\u0065l":"dear","messages":[{}]}"#,
        "the body is not valid JSON: the key \"model\" appears twice (byte 17)",
        Some("model"),
    );
    refused(
        Operation::Passthrough,
        r#"{"a":[{"b":1,"b":2}]}"#,
        "the body is not valid JSON: the key \"b\" appears twice (byte 13)",
        Some("b"),
    );
}

#[test]
fn other_endpoints_need_their_own_fields() {
    refused(Operation::Completions, r#"{"model":"a"}"#, "you must provide a prompt parameter", Some("prompt"));
    refused(Operation::Embeddings, r#"{"model":"a"}"#, "you must provide an input parameter", Some("input"));
    refused(Operation::Embeddings, r#"{"input":"a"}"#, "you must provide a model parameter", Some("model"));
    assert_eq!(
        read(Operation::Responses, r#"{"input":"a","max_output_tokens":9}"#).unwrap().max_output_tokens,
        Some(9)
    );
    assert_eq!(read(Operation::Moderations, r#"{"input":"a"}"#).unwrap().model, None);
    assert_eq!(read(Operation::Completions, r#"{"model":"a","prompt":null}"#).unwrap().choices, 1);
}

#[test]
fn a_full_chat_is_understood() {
    let facts = chat(
        r#"{"model":"gpt-\u0034o","stream":true,"stream_options":{"include_usage":true},"n":3,"max_tokens":7,
            "max_completion_tokens":9,"user":"u-1","safety_identifier":"s","tools":[{"type":"function"},{}],
            "modalities":["text","audio"],"unknown":{"model":5},
            "messages":[{"role":"system","content":"1234"},{"role":"user","content":[{"type":"text","text":"12345"},
            {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},
            {"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]}]}"#,
    )
    .unwrap();
    assert_eq!(facts.model.as_deref(), Some("gpt-4o"));
    assert!(facts.stream && facts.wants_usage);
    assert_eq!((facts.choices, facts.max_output_tokens, facts.tools), (3, Some(9), 2));
    assert_eq!(facts.end_user.as_deref(), Some("u-1"));
    let expected = Modalities { image_input: true, audio_input: true, audio_output: true, ..Modalities::default() };
    assert_eq!(facts.modalities, expected);
    // Two roles, two texts and the format of the audio; no type, no link, no data.
    assert_eq!(facts.input_text_bytes, (6 + 4) + (4 + 5) + 3);
}

#[test]
fn nulls_are_absent() {
    let facts = chat(
        r#"{"model":"a","messages":[{}],"stream":null,"stream_options":null,"n":null,"max_tokens":null,"tools":null,
            "user":null,"modalities":null}"#,
    )
    .unwrap();
    assert_eq!((facts.stream, facts.wants_usage, facts.choices, facts.max_output_tokens), (false, false, 1, None));
    assert_eq!((facts.tools, facts.end_user), (0, None));
}

#[test]
fn a_list_of_prompts_multiplies_the_answers() {
    let choices = |body| read(Operation::Completions, body).unwrap().choices;
    assert_eq!(choices(r#"{"model":"a","prompt":"x","n":2,"best_of":5}"#), 5);
    assert_eq!(choices(r#"{"model":"a","prompt":["x","y","z"],"n":2}"#), 6);
    assert_eq!(choices(r#"{"model":"a","prompt":[1,2,3],"n":2}"#), 2);
    assert_eq!(choices(r#"{"model":"a","prompt":[[1],[2]],"n":2}"#), 4);
    assert_eq!(choices(r#"{"model":"a","prompt":[]}"#), 1);
}

#[test]
fn the_content_type_decides_only_where_it_must() {
    let body = Bytes::from_static(br#"{"model":"a","messages":[{}]}"#);
    for content_type in [None, Some("application/x-www-form-urlencoded"), Some("text/plain")] {
        assert_eq!(understand(Operation::Chat, content_type, &body).unwrap().model.as_deref(), Some("a"));
        assert_eq!(understand(Operation::Passthrough, content_type, &body).unwrap().model.as_deref(), Some("a"));
    }
    let broken = Bytes::from_static(b"{\"model\":");
    assert!(understand(Operation::Passthrough, None, &broken).is_err());
    assert!(understand(Operation::Passthrough, Some("application/merge-patch+json"), &broken).is_err());
    let lines = Bytes::from_static(b"{\"model\":\"a\"}\n{\"model\":\"b\"}");
    assert_eq!(understand(Operation::Passthrough, Some("application/jsonl"), &lines).unwrap().model, None);
    let twice = Bytes::from_static(b"{\"model\":\"a\",\"model\":\"b\"}");
    assert!(understand(Operation::Passthrough, Some("text/plain"), &twice).is_err());
    for empty in ["", " "] {
        let body = Bytes::from_static(empty.as_bytes());
        assert!(understand(Operation::Passthrough, Some("application/json"), &body).is_ok());
        assert!(understand(Operation::Models, None, &body).is_ok());
    }
    assert!(read(Operation::Passthrough, "[{\"model\":1}]").unwrap().model.is_none());
}

#[test]
fn odd_fields_of_a_body_that_passes_through_are_taken_for_the_most_that_they_can_mean() {
    let facts = read(Operation::Passthrough, r#"{"n":500,"stream":"x","tools":{},"max_tokens":"y"}"#).unwrap();
    assert_eq!((facts.choices, facts.stream, facts.tools, facts.max_output_tokens), (128, true, 0, None));
    let bound = |body: &str| read(Operation::Passthrough, body).unwrap().max_output_tokens;
    assert_eq!(bound(r#"{"max_tokens":10,"max_output_tokens":20}"#), Some(20));
    assert_eq!(bound(r#"{"max_tokens":10,"max_output_tokens":"20"}"#), None);
    assert_eq!(bound(r#"{"max_tokens":10,"max_completion_tokens":0}"#), None);
    refused(Operation::Passthrough, r#"{"model":{}}"#, "model must be a string", Some("model"));
}

#[test]
fn a_ceiling_bounds_only_what_knows_it() {
    let chat = |more: &str| {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{more}}}"#);
        read(Operation::Chat, &body).unwrap()
    };
    assert_eq!(chat(r#""max_output_tokens":10"#).max_output_tokens, None);
    assert_eq!(chat(r#""max_output_tokens":10,"max_tokens":5"#).max_output_tokens, Some(10));
    assert_eq!(chat(r#""max_completion_tokens":5"#).max_output_tokens, Some(5));
    let responses = |more: &str| read(Operation::Responses, &format!(r#"{{"model":"m","input":"x",{more}}}"#)).unwrap();
    assert_eq!(responses(r#""max_tokens":10"#).max_output_tokens, None);
    assert_eq!(responses(r#""max_tokens":10,"max_output_tokens":5"#).max_output_tokens, Some(10));
    let completion = read(Operation::Completions, r#"{"model":"m","prompt":"x","max_completion_tokens":10}"#).unwrap();
    assert_eq!(completion.max_output_tokens, None);
    let scored = read(Operation::Completions, r#"{"model":"m","prompt":"x","max_tokens":0,"echo":true}"#).unwrap();
    assert_eq!(scored.max_output_tokens, Some(0));
    let zero = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":0}"#;
    refused(Operation::Chat, zero, "max_tokens must be a whole number of 1 or more", Some("max_tokens"));
    let budgets = chat(r#""thinking_budget":7,"thinking":{"budget_tokens":9},"reasoning":{"max_tokens":8}"#);
    assert_eq!((budgets.reasoning, budgets.reasoning_tokens), (true, 9));
}

#[test]
fn a_field_of_a_form_that_is_there_twice_counts_as_the_larger() {
    let field = |name: &str| format!("Content-Disposition: form-data; name=\"{name}\"");
    let (n, stream) = (field("n"), field("stream"));
    let both = form(&[(&n, "9"), (&n, "1"), (&stream, "YES"), (&stream, "false")]);
    let facts = understand(Operation::Images, Some(FORM), &both).unwrap();
    assert_eq!((facts.choices, facts.stream), (9, true));
    let odd = form(&[(&n, "1.0"), (&stream, "0")]);
    let facts = understand(Operation::Images, Some(FORM), &odd).unwrap();
    assert_eq!((facts.choices, facts.stream), (128, false));
    for name in ["n", "stream"] {
        let file = format!("{}; filename=\"x\"", field(name));
        assert!(understand(Operation::Images, Some(FORM), &form(&[(&file, "9")])).is_err());
    }
}

const FORM: &str = "multipart/form-data; boundary=\"xY z\"";

fn form(parts: &[(&str, &str)]) -> Bytes {
    let mut body = String::new();
    for (head, content) in parts {
        body.push_str(&format!("--xY z\r\n{head}\r\n\r\n{content}\r\n"));
    }
    Bytes::from(body + "--xY z--\r\n")
}

const MODEL: &str = "Content-Disposition: form-data; name=\"model\"";
const FILE: &str =
    "content-disposition: form-data; name=\"file\"; filename=\"a;name=model.wav\"\r\nContent-Type: audio/wav";

#[test]
fn the_model_of_a_form_is_found_and_replaced() {
    let body = form(&[
        (FILE, "\r\n--xY\r\nmodel\0\u{1}"),
        (MODEL, "whisper-1"),
        ("Content-Disposition: form-data; name=stream", "true"),
        ("Content-Disposition: form-data; name=\"prompt\"", ""),
    ]);
    let facts = understand(Operation::Audio, Some(FORM), &body).unwrap();
    assert_eq!(facts.model.as_deref(), Some("whisper-1"));
    assert!(facts.stream && facts.modalities.audio_input);
    let changed = facts.body_for(&body, &asking(Some("gpt-4o\r\n-transcribe")));
    let expected = std::str::from_utf8(&body).unwrap().replace("whisper-1", "gpt-4o-transcribe");
    assert_eq!(changed, expected.as_bytes());
    assert_eq!(facts.body_for(&body, &asking(Some("whisper-1"))).as_ptr(), body.as_ptr());
}

#[test]
fn a_form_that_reads_two_ways_is_refused() {
    let read = |body: &Bytes| understand(Operation::Audio, Some(FORM), body);
    assert!(read(&form(&[(MODEL, "a"), (MODEL, "b")])).is_err(), "two models");
    assert!(read(&form(&[("Content-Disposition: form-data; name=\"x\"; name=\"model\"", "a")])).is_err());
    assert!(read(&form(&[("Content-Disposition: form-data; name=\"x\"; name*=utf-8''model", "a")])).is_err());
    assert!(read(&form(&[(&format!("{MODEL}\r\nContent-Disposition: form-data; name=\"x\""), "a")])).is_err());
    assert!(read(&form(&[(&format!("X: y\n{MODEL}"), "a")])).is_err(), "bare line feed");
    assert!(read(&form(&[(&format!("{MODEL}; filename=\"m\""), "a")])).is_err(), "a file named model");
    assert!(read(&form(&[(MODEL, "a\nb")])).is_err(), "control character in the name");
    assert!(read(&form(&[("X: y", "a")])).is_err(), "no disposition");
    let whole = form(&[(MODEL, "a")]);
    for length in 0..whole.len() - 4 {
        assert!(read(&whole.slice(..length)).is_err(), "cut off at {length}");
    }
    assert!(understand(Operation::Audio, Some("multipart/form-data"), &whole).is_err(), "no boundary");
    assert!(understand(Operation::Audio, Some("multipart/form-data; boundary=\"x"), &whole).is_err());
    let many: Vec<(&str, &str)> = vec![("Content-Disposition: form-data; name=\"x\"", ""); 300];
    assert!(read(&form(&many)).is_err(), "too many parts");
}

/// Another model, and usage asked for.
fn asking(model: Option<&str>) -> Changes<'_> {
    Changes { model, ask_usage: true, ceiling: None }
}

#[test]
fn a_ceiling_is_put_in_once_and_takes_the_place_of_a_null() {
    let bound = |body: &'static str, operation, field| {
        let body = Bytes::from_static(body.as_bytes());
        let facts = understand(operation, Some("application/json"), &body).unwrap();
        let changed = facts.body_for(&body, &Changes { ceiling: Some((field, 64)), ..Changes::default() });
        String::from_utf8(changed.to_vec()).unwrap()
    };
    let chat = |body, field| bound(body, Operation::Chat, field);
    assert_eq!(
        chat(r#"{"model":"m","messages":[{}],"max_tokens":null}"#, CeilingField::MaxTokens),
        r#"{"model":"m","messages":[{}],"max_tokens":64}"#
    );
    assert_eq!(
        chat(r#"{"model":"m","messages":[{}],"max_tokens":null}"#, CeilingField::MaxCompletionTokens),
        r#"{"max_completion_tokens":64,"model":"m","messages":[{}],"max_tokens":null}"#
    );
    assert_eq!(bound("{ }", Operation::Responses, CeilingField::MaxOutputTokens), r#"{"max_output_tokens":64 }"#);
}

#[test]
fn no_text_has_more_tokens_than_its_bound() {
    let most = |body: &'static str| {
        understand(Operation::Chat, None, &Bytes::from_static(body.as_bytes())).unwrap().input_tokens_most
    };
    assert!(most(r#"{"model":"m","messages":[{"role":"user","content":"aaaaaaaaaa"}]}"#) >= 10);
    // What hides under another name is read as text all the same, unless no model reads it there.
    assert!(
        most(r#"{"model":"m","messages":[{"role":"user","content":"","name":"aaaaaaaaaaaaaaaaaaaaaaaaa"}]}"#) >= 25
    );
    assert!(most(r#"{"model":"m","messages":[{}],"tools":[{"x":{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":1}}]}"#) >= 30);
}

#[test]
fn what_the_model_reads_beyond_the_body_is_noticed() {
    let facts = |more: &str| {
        let input = if more.contains("input\":") { "" } else { r#","input":"x""# };
        let body = format!(r#"{{"model":"m"{input}{more}}}"#);
        understand(Operation::Responses, None, &Bytes::from(body)).unwrap()
    };
    assert_eq!((facts("").continues, facts("").refers), (None, false));
    let next = facts(r#","previous_response_id":"resp_1""#);
    assert_eq!((next.continues.as_deref(), next.refers), (Some("resp_1"), false));
    for more in [
        r#","conversation":"conv_1""#,
        r#","conversation":{"id":"conv_1"}"#,
        r#","prompt":{"id":"pmpt_1"}"#,
        r#","input":[{"type":"item_reference","id":"i"}]"#,
        r#","input":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]"#,
        r#","input":[{"role":"user","content":[{"type":"input_file","file_url":"https://a/b.pdf"}]}]"#,
        r#","tools":[{"type":"web_search_preview"}]"#,
        r#","tools":[{"type":"openrouter:web_search"}]"#,
        r#","tools":[{"type":"openrouter:fusion","parameters":{}}]"#,
        r#","tools":[{"type":"x_search"}]"#,
        r#","tools":[{"googleSearch":{}}]"#,
        r#","tools":[{"type":"\u006fpenrouter:web_search"}]"#,
        r#","web_search_options":{}"#,
        r#","search_parameters":{"mode":"on"}"#,
        r#","search_parameters":{}"#,
        r#","enable_search":true"#,
        r#","enable_search":"yes""#,
        r#","plugins":[{"id":"file-parser"},{"id":"web"}]"#,
        r#","plugins":[{"id":"w\u0065b","max_results":1}]"#,
        r#","mcp_servers":[{"type":"url","url":"https://a","name":"crm"}]"#,
    ] {
        assert!(facts(more).refers, "{more}");
    }
    for more in [
        r#","web_search_options":null,"enable_search":false,"search_parameters":{"mode":"off"}"#,
        r#","plugins":[],"mcp_servers":[],"search_parameters":false"#,
        r#","plugins":[{"id":"web","enabled":false},{"id":"response-healing"}]"#,
        r#","tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"url_context":{}}}}}]"#,
        r#","previous_response_id":null,"conversation":null"#,
        r#","tools":[{"type":"function","name":"mcp","parameters":{"type":"object"}}]"#,
        r#","input":[{"role":"user","content":"web_search"}]"#,
    ] {
        assert!(!facts(more).refers && facts(more).continues.is_none(), "{more}");
    }
}
