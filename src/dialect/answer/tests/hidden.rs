//! What of a stream's usage is hidden from callers who did not ask for it.

use super::*;

#[test]
fn the_usage_event_is_hidden_wherever_the_stream_is_cut() {
    for (line_end, keep_alive) in [("\n", ""), ("\r\n", ": OPENROUTER PROCESSING\n\n"), ("\r", ": x\n\n")] {
        let join = |events: &[&str]| events.concat().replace('\n', line_end);
        let stream = join(&[ROLE, keep_alive, WORD, STOP, USAGE, keep_alive, DONE]);
        let shown = unasked(&join(&[ROLE, keep_alive, WORD, STOP, keep_alive, DONE]));
        for cut in 0..=stream.len() {
            let (one, other) = stream.as_bytes().split_at(cut);
            let (out, reader) = relay(Operation::Chat, true, &[one, other]);
            // Between CR and LF the line feed that is left over is a blank line, which means nothing.
            let out = String::from_utf8(out).unwrap().replace("\r\n\r\n\n", "\r\n\r\n");
            assert_eq!(out, shown, "cut at {cut} of {line_end:?}");
            assert_eq!(reader.usage(), counted(), "cut at {cut}");
            assert_eq!(reader.finish_reason(), Some("stop"));
        }
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        let (out, reader) = relay(Operation::Chat, true, &bytes);
        assert_eq!(String::from_utf8(out).unwrap().replace("\r\n\r\n\n", "\r\n\r\n"), shown);
        assert_eq!((reader.usage(), reader.model()), (counted(), Some("m-1")));
    }
}

#[test]
fn usage_beside_a_choice_or_an_error_is_not_hidden() {
    let beside = STOP.replace("\"usage\":null", "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}");
    let error = USAGE.replace("\"choices\":[]", "\"choices\":[],\"error\":{\"message\":\"m\",\"code\":429}");
    let groq = STOP.replace("\"usage\":null", "\"x_groq\":{\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}");
    for event in [beside, error, groq] {
        let (out, reader) = relay(Operation::Chat, true, &[event.as_bytes(), DONE.as_bytes()]);
        assert_eq!(out, [event.as_bytes(), DONE.as_bytes()].concat());
        assert_eq!(reader.usage(), counted());
    }
}

#[test]
fn what_stands_beside_the_usage_is_not_hidden_with_it() {
    let shown = |event: &str| {
        let stream = [WORD, event, DONE].concat();
        let whole = relay(Operation::Chat, true, &[stream.as_bytes()]);
        assert_eq!(whole.1.usage(), counted(), "{event}");
        for cut in 0..stream.len() {
            let (one, other) = stream.as_bytes().split_at(cut);
            assert_eq!(relay(Operation::Chat, true, &[one, other]).0, whole.0, "cut at {cut}");
        }
        let out = String::from_utf8(whole.0).unwrap();
        out.strip_prefix(&unasked(WORD)).unwrap().strip_suffix(DONE).unwrap().to_owned()
    };
    let usage = r#""usage": {"prompt_tokens":9,"completion_tokens":2}"#;
    let nothing = r#""id":"a","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":"f","service_tier":"default","provider":"p","obfuscation":"x","p":"ab","x_groq":{"id":"q"},"timings":null,"warnings":[],"more":{}"#;
    assert_eq!(shown(&format!("data: {{\"choices\":[],{nothing},{usage}}}\n\n")), "");
    // An answer without words stands where callers look for one, as they do who did not ask for usage.
    let choice = r#""choices":[{"index":0,"delta":{},"finish_reason":null}]"#;
    let timings = r#""timings": {"prompt_n": 6}"#;
    for (event, expected) in [
        (format!("{{\"choices\":[],{usage},{timings}}}"), format!("{{{choice},{timings}}}")),
        (format!("{{\"choices\":[], {timings} , {usage} }}"), format!("{{{choice}, {timings} }}")),
        (format!("{{ {usage} ,{timings},\"choices\":[ ]}}"), format!("{{ {timings},{choice}}}")),
        (format!("{{{usage},{timings}}}"), format!("{{{timings}}}")),
        (format!("{{\"choices\":null,{usage},{timings}}}"), format!("{{\"choices\":null,{timings}}}")),
    ] {
        assert_eq!(shown(&format!("data: {event}\n\n")), format!("data: {expected}\n\n"));
        assert_eq!(shown(&format!("event: e\r\ndata:{event}\r\n\r\n")), format!("event: e\r\ndata:{expected}\r\n\r\n"));
    }
}

#[test]
fn a_usage_of_null_is_shown_to_those_alone_who_asked_for_usage() {
    let error = WORD.replace("{\"id\"", "{\"error\":{\"message\":\"m\"},\"id\"");
    for (event, shown) in [
        (WORD.to_owned(), unasked(WORD)),
        (error.clone(), unasked(&error)),
        ("data: {\"usage\": null , \"choices\":[]}\n\n".to_owned(), "data: {\"choices\":[]}\n\n".to_owned()),
        ("data: {\"usage\":null}\r\n\r\n".to_owned(), "data: {}\r\n\r\n".to_owned()),
    ] {
        let see = |hide: bool| String::from_utf8(relay(Operation::Chat, hide, &[event.as_bytes()]).0).unwrap();
        assert_eq!((see(true), see(false)), (shown, event.clone()));
    }
    // Elsewhere it is somebody else's word.
    for event in [
        "data: {\"x\":{\"usage\":null}}\n\n",
        "data: {\"delta\":\"\\\"usage\\\":null\"}\n\n",
        "data: \"usage\":null\n\n",
    ] {
        assert_eq!(relay(Operation::Chat, true, &[event.as_bytes()]).0, event.as_bytes());
    }
}
