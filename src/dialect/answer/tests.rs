mod hidden;

use proptest::prelude::*;

use super::*;
use crate::dialect::clean::tests::Knows;
use crate::dialect::operation::Operation;
use crate::dialect::sse;
use crate::error::Kind;
use crate::unit::usage::ServiceTier;

const ROLE: &str = "data: {\"id\":\"c-1\",\"model\":\"m-1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}],\"usage\":null}\n\n";
const WORD: &str = "data: {\"id\":\"c-1\",\"model\":\"m-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\u{e9}\"},\"finish_reason\":null}],\"usage\":null}\n\n";
const STOP: &str = "data: {\"id\":\"c-1\",\"model\":\"m-1\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n";
const USAGE: &str = "data: {\"id\":\"c-1\",\"model\":\"m-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,\"total_tokens\":11}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// An event as a provider that was not asked for usage would have sent it.
fn unasked(event: &str) -> String {
    event.replace(",\"usage\":null", "")
}

fn counted() -> Option<Usage> {
    Some(Usage { input: 9, output: 2, ..Usage::default() })
}

/// Pushes pieces, the last one as the end, and gives what came out, joined, and the reader.
fn relay(operation: Operation, hide: bool, pieces: &[&[u8]]) -> (Vec<u8>, AnswerReader) {
    let mut reader = AnswerReader::new(operation, true, hide);
    let mut out = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        out.extend_from_slice(&reader.push(Bytes::copy_from_slice(piece), index + 1 == pieces.len()).bytes);
    }
    (out, reader)
}

#[test]
fn a_stream_is_relayed_unchanged_and_read() {
    let stream = [ROLE, WORD, STOP, USAGE, DONE].concat();
    let (out, reader) = relay(Operation::Chat, false, &[stream.as_bytes()]);
    assert_eq!(out, stream.as_bytes());
    assert_eq!(reader.usage(), counted());
    assert_eq!(
        (reader.model(), reader.response_id(), reader.finish_reason()),
        (Some("m-1"), Some("c-1"), Some("stop"))
    );
    assert!(reader.first_token_seen() && reader.stream_error().is_none());
    assert_eq!(reader.delivered(), (Bytes::from(stream.clone()), stream.len() as u64));
}

#[test]
fn whole_events_are_not_copied() {
    let mut reader = AnswerReader::new(Operation::Chat, true, true);
    let (role, word) = (unasked(ROLE), unasked(WORD));
    for (chunk, range) in [
        ([&*role, &*word].concat(), 0..role.len() + word.len()),
        ([&*word, USAGE].concat(), 0..word.len()),
        ([USAGE, DONE].concat(), USAGE.len()..USAGE.len() + DONE.len()),
    ] {
        let chunk = Bytes::from(chunk);
        let out = reader.push(chunk.clone(), false).bytes;
        assert_eq!(out, chunk.slice(range.clone()));
        assert_eq!(out.as_ptr(), chunk.slice(range).as_ptr());
    }
    let chunk = Bytes::from([&*word, "data: {\"cho"].concat());
    let out = reader.push(chunk.clone(), false).bytes;
    assert_eq!((&out[..], out.as_ptr()), (word.as_bytes(), chunk.as_ptr()));
    assert_eq!(reader.push(Bytes::from_static(b"ices\":[]}\n\n"), true).bytes, "data: {\"choices\":[]}\n\n");
}

#[test]
fn an_event_beyond_the_bound_passes_and_its_usage_is_found_at_its_end() {
    for hide in [false, true] {
        let mut reader = AnswerReader::new(Operation::Responses, true, hide);
        let head = "data: {\"type\":\"response.completed\",\"response\":{\"output\":\"";
        let filler = "x".repeat(300_000);
        let tail = "\",\"usage\":{\"input_tokens\":9,\"output_tokens\":2}}}\n\n";
        let mut out = Vec::new();
        for piece in [head, &filler, &filler, &filler, &filler, &filler, tail, DONE] {
            out.extend_from_slice(&reader.push(Bytes::copy_from_slice(piece.as_bytes()), piece == DONE).bytes);
            assert!(reader.stream.as_ref().unwrap().partial.len() <= EVENT_LIMIT_BYTES + filler.len());
        }
        assert!(out == [head, &filler, &filler, &filler, &filler, &filler, tail, DONE].concat().as_bytes());
        assert_eq!(reader.usage(), counted());
        let (beginning, total) = reader.delivered();
        assert_eq!((beginning.len(), total), (DELIVERED_LIMIT_BYTES, out.len() as u64));
    }
}

#[test]
fn the_first_token_is_what_a_model_wrote() {
    let seen = |operation, delta: &str| {
        let event = format!("data: {{\"choices\":[{{\"index\":0,{delta}}}]}}\n\n");
        relay(operation, false, &[event.as_bytes()]).1.first_token_seen()
    };
    assert!(!seen(Operation::Chat, r#""delta":{"role":"assistant","content":""}"#));
    assert!(!seen(Operation::Chat, r#""delta":{"role":"assistant","content":null,"tool_calls":[]}"#));
    assert!(!seen(Operation::Chat, r#""delta":{},"finish_reason":"stop""#));
    assert!(seen(Operation::Chat, r#""delta":{"content":"a"}"#));
    assert!(seen(Operation::Chat, r#""delta":{"reasoning_content":"a"}"#));
    assert!(seen(Operation::Chat, r#""delta":{"tool_calls":[{"index":0,"id":"t"}]}"#));
    assert!(!seen(Operation::Completions, r#""text":"""#));
    assert!(seen(Operation::Completions, r#""text":"a""#));
    assert!(!relay(Operation::Chat, false, &[b": keep-alive\n\n"]).1.first_token_seen());
    let mut plain = AnswerReader::new(Operation::Chat, false, false);
    assert!(!plain.first_token_seen());
    plain.push(Bytes::from_static(b"{"), false);
    assert!(plain.first_token_seen());
}

#[test]
fn an_answer_is_complete_when_the_caller_thinks_so() {
    let complete = |operation, piece: &'static str| {
        AnswerReader::new(operation, true, false).push(Bytes::from_static(piece.as_bytes()), false).complete
    };
    assert!(complete(Operation::Chat, DONE));
    assert!(complete(Operation::Chat, "id: 1234567890\nevent: message-of-some-length\ndata:[DONE]\r\n\r\n"));
    assert!(!complete(Operation::Chat, "data: [DONE]\n"));
    assert!(!complete(Operation::Chat, WORD));
    assert!(!complete(Operation::Chat, "data: {\"choices\":[{\"delta\":{\"content\":\"data: [DONE]\"}}]}\n\n"));
    assert!(complete(
        Operation::Responses,
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n"
    ));
    assert!(!complete(Operation::Responses, "data: {\"type\":\"response.created\",\"response\":{}}\n\n"));
    let mut reader = AnswerReader::new(Operation::Chat, false, false);
    assert!(!reader.push(Bytes::from_static(b"{}"), false).complete);
    assert!(reader.push(Bytes::new(), true).complete);
}

#[test]
fn usage_is_awaited_from_the_end_of_every_choice_until_it_is_told() {
    let awaits = |several: bool, events: &[&str]| {
        let mut reader = AnswerReader::new(Operation::Chat, true, true);
        if several {
            reader = reader.expect_several();
        }
        events.iter().for_each(|event| drop(reader.push(Bytes::copy_from_slice(event.as_bytes()), false)));
        reader.awaits_usage()
    };
    let second = |event: &str| event.replace("\"index\":0", "\"index\":1");
    let with = |event: &str, usage: &str| event.replace("\"usage\":null", &format!("\"usage\":{usage}"));
    let (other_word, other_stop) = (second(WORD), second(STOP));
    let told = with(STOP, "{\"prompt_tokens\":9,\"completion_tokens\":2}");
    let early = with(ROLE, "{\"prompt_tokens\":9,\"completion_tokens\":0}");
    let empty = WORD.replace("\"finish_reason\":null", "\"finish_reason\":\"\"");
    assert!(!awaits(false, &[ROLE, WORD]));
    assert!(!awaits(false, &[ROLE, &empty]));
    assert!(!awaits(false, &[WORD, STOP, USAGE]));
    assert!(!awaits(false, &[WORD, &told]));
    assert!(awaits(false, &[ROLE, WORD, STOP]));
    assert!(awaits(false, &[ROLE, &other_word, &other_stop]));
    assert!(awaits(false, &[&early, WORD, STOP]), "what was told before the text is not the whole");
    assert!(!awaits(true, &[WORD, &other_word, STOP]));
    assert!(awaits(true, &[WORD, &other_word, STOP, &other_stop]));
    // Answers may come one behind the other.
    assert!(awaits(true, &[WORD, STOP]));
    assert!(!awaits(true, &[WORD, STOP, &other_word]));
    let responds = |kinds: &[(&str, u8)]| {
        let mut reader = AnswerReader::new(Operation::Responses, true, false);
        for (kind, index) in kinds {
            let event = format!("data: {{\"type\":\"response.{kind}\",\"output_index\":{index},\"delta\":\"x\"}}\n\n");
            reader.push(Bytes::from(event), false);
        }
        reader.awaits_usage()
    };
    let opening =
        [("output_item.added", 0), ("output_item.done", 0), ("output_item.added", 1), ("output_text.delta", 1)];
    assert!(responds(&opening[..2]) && !responds(&opening[..3]) && !responds(&opening));
    assert!(responds(&[&opening[..], &[("output_text.done", 1)]].concat()));
    let mut plain = AnswerReader::new(Operation::Chat, false, true);
    plain.push(Bytes::from_static(b"{\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}"), true);
    assert!(!plain.awaits_usage());
}

#[test]
fn an_error_event_is_noticed() {
    let error = |operation, event: &str| relay(operation, true, &[event.as_bytes()]).1.stream_error().cloned();
    let expected = |message: &str, code: Option<&str>| {
        Some(StreamError { message: message.to_owned(), code: code.map(str::to_owned) })
    };
    let event = "data: {\"id\":\"a\",\"choices\":[],\"error\":{\"message\":\"over\",\"code\":502}}\n\n";
    assert_eq!(error(Operation::Chat, event), expected("over", Some("502")));
    let event = "data: {\"error\":{\"message\":\"over\",\"type\":\"server_error\",\"code\":null}}\n\n";
    assert_eq!(error(Operation::Chat, event), expected("over", Some("server_error")));
    assert_eq!(error(Operation::Chat, "data: {\"error\":\"over\"}\n\n"), expected("over", None));
    let event = "event: error\ndata: {\"type\":\"error\",\"code\":\"x\",\"message\":\"over\"}\n\n";
    assert_eq!(error(Operation::Responses, event), expected("over", Some("x")));
    let quiet = WORD.replace("\"usage\":null", "\"error\":null");
    assert_eq!(error(Operation::Chat, &quiet), None);
    let late = [ROLE, WORD, WORD, event].concat();
    assert_eq!(error(Operation::Chat, &late), expected("over", Some("x")));
}

#[test]
fn a_stream_of_responses_is_read() {
    let stream = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"model\":\"m\",\"status\":\"in_progress\",\"usage\":null}}\n\n\
        event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n\
        event: response.incomplete\ndata: {\"type\":\"response.incomplete\",\"response\":{\"id\":\"r\",\"model\":\"m\",\"status\":\"incomplete\",\"incomplete_details\":{\"reason\":\"max_output_tokens\"},\"usage\":{\"input_tokens\":9,\"output_tokens\":2}}}\n\n";
    let (_, reader) = relay(Operation::Responses, false, &[stream.as_bytes()]);
    assert_eq!((reader.model(), reader.response_id()), (Some("m"), Some("r")));
    assert_eq!((reader.finish_reason(), reader.usage()), (Some("max_output_tokens"), counted()));
    assert!(reader.first_token_seen());
}

#[test]
fn a_json_answer_is_read_at_its_end() {
    let answer = r#"{"id":"c","choices":[{"index":0,"message":{"content":"{\"usage\":{\"prompt_tokens\":77}}"},"finish_reason":"length"}],"model":"m","usage":{"prompt_tokens":9,"completion_tokens":2}}"#;
    for size in [1, 7, 1000] {
        let mut reader = AnswerReader::new(Operation::Chat, false, true);
        for piece in answer.as_bytes().chunks(size) {
            assert_eq!(reader.push(Bytes::copy_from_slice(piece), false).bytes, piece);
        }
        assert_eq!(reader.usage(), None);
        reader.push(Bytes::new(), true);
        assert_eq!((reader.usage(), reader.model(), reader.finish_reason()), (counted(), Some("m"), Some("length")));
        assert_eq!(reader.delivered(), (Bytes::from(answer), answer.len() as u64));
    }
}

#[test]
fn an_answer_that_was_cut_gives_no_half_numbers() {
    let mut reader = AnswerReader::new(Operation::Chat, false, false);
    reader.push(Bytes::from_static(b"{\"id\":\"c\",\"model\":\"gpt-4\",\"usage\":{\"prompt_tokens\":12"), false);
    reader.finish();
    assert_eq!((reader.usage(), reader.model()), (None, Some("gpt-4")));
    let mut reader = AnswerReader::new(Operation::Chat, false, false);
    reader.push(Bytes::from_static(b"{\"id\":\"c\",\"model\":\"gpt-"), false);
    reader.finish();
    assert_eq!((reader.model(), reader.response_id()), (None, Some("c")));
}

#[test]
fn usage_is_found_at_the_end_of_a_huge_answer() {
    let row = "0.123456,".repeat(1_000);
    let mut reader = AnswerReader::new(Operation::Embeddings, false, false);
    let mut total = 0;
    let mut push = |reader: &mut AnswerReader, text: &str, end| {
        total += text.len() as u64;
        reader.push(Bytes::copy_from_slice(text.as_bytes()), end);
        assert!(reader.delivered.tail.len() <= 2 * TAIL_LIMIT_BYTES);
        assert!(reader.delivered.joined.len() <= DOCUMENT_LIMIT_BYTES);
    };
    push(&mut reader, "{\"data\":[{\"embedding\":[", false);
    for _ in 0..400 {
        push(&mut reader, &row, false);
    }
    push(&mut reader, "0]}],\"model\":\"e\",\"usage\":{\"prompt_tok", false);
    push(&mut reader, "ens\":9,\"total_tokens\":9}}", true);
    assert_eq!(reader.usage(), Some(Usage { input: 9, ..Usage::default() }));
    assert_eq!(reader.model(), Some("e"));
    assert_eq!(reader.delivered().1, total);
    // One chunk larger than all bounds.
    let mut reader = AnswerReader::new(Operation::Embeddings, false, false);
    let whole = format!("{{\"d\":[{}0],\"usage\":{{\"prompt_tokens\":9}}}}", row.repeat(200));
    reader.push(Bytes::from(whole), true);
    assert_eq!(reader.usage(), Some(Usage { input: 9, ..Usage::default() }));
}

#[test]
fn the_tail_follows_the_head_without_a_gap() {
    let mut kept = Kept::new(100_000);
    let bytes: Vec<u8> = (0..250_000_u32).map(|index| (index % 251) as u8).collect();
    for (index, chunk) in bytes.chunks(999).enumerate() {
        kept.push(&Bytes::copy_from_slice(chunk), true);
        let so_far = &bytes[..bytes.len().min((index + 1) * 999)];
        assert_eq!(kept.head(), &so_far[..so_far.len().min(100_000)]);
        assert!(so_far.len() <= 100_000 || (so_far.ends_with(&kept.tail) && kept.tail.len() >= TAIL_LIMIT_BYTES));
    }
}

#[test]
fn anything_is_relayed() {
    for soup in
        ["", "\n\n\n\n", "data", "data:", "data: \u{0}\n\n", "{}", "data: {\n\n", "data: {\"usage\":\n\n", "\r\r\r"]
    {
        for hide in [false, true] {
            let (out, _) = relay(Operation::Chat, hide, &[soup.as_bytes(), soup.as_bytes(), b""]);
            assert_eq!(out, soup.repeat(2).as_bytes(), "{soup:?}");
        }
    }
}

#[test]
fn an_answer_that_breaks_off_ends_in_an_error_event() {
    let event = cut_event(&Error::new(Kind::UpstreamError, "it broke \"off\"\nhere"));
    for before in [WORD, "data: {\"choices\":[{\"del", "data: {}\n", "data: {}\r", ": x", ""] {
        let delivered = [before.as_bytes(), &event].concat();
        let last = sse::all_data(&delivered).filter(|data| !data.is_empty()).last().unwrap();
        let tree: serde_json::Value = serde_json::from_slice(&last).unwrap();
        assert_eq!(tree["error"]["message"], "it broke \"off\"\nhere");
        assert_eq!(
            (tree["error"]["code"].as_str(), tree["error"]["type"].as_str()),
            (Some("upstream_error"), Some("server_error"))
        );
        assert!(delivered.ends_with(b"}}\n\n"));
    }
}

#[test]
fn a_report_is_stale_once_more_was_written() {
    let early = ROLE.replace("\"usage\":null", "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":0}");
    let running = WORD.replace("\"usage\":null", "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}");
    let missing = |events: &[&str]| {
        let reader = relay(Operation::Chat, false, &[events.concat().as_bytes()]).1;
        assert!(reader.usage().is_some());
        (reader.missing().input, reader.missing().output)
    };
    assert_eq!(missing(&[&early, WORD, STOP, DONE]), (false, true));
    assert_eq!(missing(&[&early, WORD, STOP, USAGE, DONE]), (false, false));
    assert_eq!(missing(&[&running, &running, STOP, DONE]), (false, false), "counts that run along");
    assert_eq!(missing(&[&early, STOP, ": keep-alive\n\n", DONE]), (false, false), "nothing was written");
    assert_eq!(missing(&[WORD, USAGE, STOP, DONE]), (false, false));
}

const KEEPER: Knows<'_> = Knows(&["hunter2hunter2"], &["10.0.0.7:8000"]);

/// Pushes a text cut in two, and gives what came out.
fn kept(reader: AnswerReader, (one, other): (&str, &str)) -> (String, AnswerReader) {
    let mut reader = reader.keep_confidential(Arc::new(KEEPER));
    let mut out = reader.push(Bytes::copy_from_slice(one.as_bytes()), false).bytes.to_vec();
    out.extend_from_slice(&reader.push(Bytes::copy_from_slice(other.as_bytes()), true).bytes);
    (String::from_utf8(out).unwrap(), reader)
}

#[test]
fn an_error_in_a_stream_names_no_credential_wherever_it_is_cut() {
    let error =
        "data: {\"error\":{\"message\":\"http://10.0.0.7:8000/v1 rejected hunter2hunter2\",\"code\":\"x\"}}\n\n";
    let cleaned = "data: {\"error\":{\"message\":\"[redacted] rejected [redacted]\",\"code\":\"x\"}}\n\n";
    for hide in [false, true] {
        for before in [String::new(), [ROLE, WORD].concat()] {
            let stream = format!("{before}{error}{DONE}");
            for cut in (0..=stream.len()).filter(|cut| stream.is_char_boundary(*cut)) {
                let reader = AnswerReader::new(Operation::Chat, true, hide);
                let (out, reader) = kept(reader, stream.split_at(cut));
                let before = if hide { unasked(&before) } else { before.clone() };
                assert_eq!(out, format!("{before}{cleaned}{DONE}"), "cut at {cut}");
                assert!(reader.stream_error().is_some());
            }
        }
    }
    let named = "event: error\ndata: hunter2hunter2 is wrong\n\n";
    let (out, _) = kept(AnswerReader::new(Operation::Passthrough, true, false), named.split_at(9));
    assert_eq!(out, "event: error\ndata: [redacted] is wrong\n\n");
}

#[test]
fn a_json_error_of_status_200_names_no_credential_and_keeps_its_length() {
    let error = r#"{"id":"c","error":{"message":"http://10.0.0.7:8000/v1 rejected hunter2hunter2"},"status":"failed"}"#;
    for cut in 0..=error.len() {
        let (out, _) = kept(AnswerReader::new(Operation::Chat, false, false), error.split_at(cut));
        assert_eq!(out.len(), error.len(), "cut at {cut}");
        assert_eq!(
            out.trim_end(),
            r#"{"id":"c","error":{"message":"[redacted] rejected [redacted]"},"status":"failed"}"#,
            "cut at {cut}"
        );
    }
}

#[test]
fn a_json_answer_passes_piece_by_piece_unless_it_speaks_of_an_error() {
    let answer = r#"{"id":"c","error":null,"choices":[{"message":{"content":"an \"error\" of hunter2hunter2"}}]}"#;
    let mut reader = AnswerReader::new(Operation::Chat, false, false).keep_confidential(Arc::new(KEEPER));
    for piece in answer.as_bytes().chunks(30) {
        assert_eq!(reader.push(Bytes::copy_from_slice(piece), false).bytes, piece);
    }
    // One that is too large for an error is not held without end.
    let mut reader = AnswerReader::new(Operation::Chat, false, false).keep_confidential(Arc::new(KEEPER));
    assert_eq!(reader.push(Bytes::from_static(b"{\"error\":\""), false).bytes, "");
    let rest = "x".repeat(DOCUMENT_LIMIT_BYTES);
    assert_eq!(reader.push(Bytes::from(rest), false).bytes.len(), DOCUMENT_LIMIT_BYTES + 10);
}

#[test]
fn what_begins_like_a_stream_is_read_as_one_for_callers_who_asked_for_one() {
    let stream = [ROLE, WORD, USAGE, DONE].concat();
    for cut in [0, 1, 5, 40] {
        let reader = AnswerReader::new(Operation::Chat, false, false).guess_stream(true);
        let (out, reader) = kept(reader, stream.split_at(cut));
        assert!(reader.is_event_stream());
        assert_eq!((out, reader.usage()), (unasked(&[ROLE, WORD, DONE].concat()), counted()));
    }
    let answer = r#"{"model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#;
    let reader = AnswerReader::new(Operation::Chat, false, false).guess_stream(true);
    let (out, reader) = kept(reader, answer.split_at(10));
    assert!(!reader.is_event_stream());
    assert_eq!((out.as_str(), reader.usage()), (answer, counted()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_a_stream_is_cut_changes_nothing(
        soup in prop::collection::vec(prop::sample::select(vec![
            ROLE, WORD, STOP, USAGE, DONE, "\n", "data: x", "data:", ": c\n", "event: e\n", "{\"usage\":{}}", "\n\n",
        ]), 0..12),
        sizes in prop::collection::vec(1..200_usize, 1..40),
    ) {
        let stream = soup.concat();
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut rest = stream.as_bytes();
        for size in sizes.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*size));
            pieces.push(piece);
            rest = behind;
            if rest.is_empty() { break; }
        }
        let (plain, _) = relay(Operation::Chat, false, &pieces);
        prop_assert_eq!(plain, stream.as_bytes());
        let (whole, at_once) = relay(Operation::Chat, true, &[stream.as_bytes()]);
        let (cut, in_pieces) = relay(Operation::Chat, true, &pieces);
        prop_assert_eq!(String::from_utf8_lossy(&cut), String::from_utf8_lossy(&whole));
        prop_assert_eq!(at_once.usage(), in_pieces.usage());
        prop_assert_eq!(at_once.finish_reason(), in_pieces.finish_reason());
        prop_assert_eq!(at_once.first_token_seen(), in_pieces.first_token_seen());
        prop_assert_eq!(in_pieces.delivered(), (Bytes::from(whole.clone()), whole.len() as u64));
    }
}

#[test]
fn the_service_tier_is_the_last_that_the_provider_named() {
    let read = |event_stream, bytes: &'static str| {
        let mut reader = AnswerReader::new(Operation::Chat, event_stream, false);
        reader.push(Bytes::from_static(bytes.as_bytes()), true);
        reader.service_tier()
    };
    assert_eq!(read(false, r#"{"id":"a","model":"m","choices":[]}"#), None);
    assert_eq!(read(false, r#"{"id":"a","service_tier":null}"#), None);
    assert_eq!(read(false, r#"{"id":"a","service_tier":"default"}"#), Some(ServiceTier::Standard));
    assert_eq!(read(false, r#"{"id":"a","service_tier":"priority"}"#), Some(ServiceTier::Priority));
    assert_eq!(
        read(false, r#"{"id":"a","usage":{"input_tokens":1,"output_tokens":1,"service_tier":"batch"}}"#),
        Some(ServiceTier::Batch)
    );
    let stream = concat!(
        "data: {\"id\":\"a\",\"model\":\"m\",\"service_tier\":\"auto\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n",
        "data: {\"id\":\"a\",\"service_tier\":\"flex\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n",
        "data: [DONE]\n\n"
    );
    assert_eq!(read(true, stream), Some(ServiceTier::Flex));
}

#[test]
fn images_are_counted_in_documents_and_streams_with_what_is_said_of_them() {
    let read = |operation, stream: bool, text: &str| {
        let mut reader = AnswerReader::new(operation, stream, false);
        // In pieces, so that words lie across their borders.
        for piece in text.as_bytes().chunks(7) {
            reader.push(Bytes::copy_from_slice(piece), false);
        }
        reader.push(Bytes::new(), true);
        let (size, quality) = reader.image_kind();
        (reader.images(), size.map(str::to_owned), quality.map(str::to_owned))
    };
    let kind = |size: &str, quality: &str| (Some(size.to_owned()), Some(quality.to_owned()));
    assert_eq!(read(Operation::Images, false, r#"{"created":1}"#).0, None, "the answer does not say");
    assert_eq!(read(Operation::Images, false, r#"{"data":[]}"#).0, Some(0));
    let named = r#"{"data":[{"b64_json":"A"},{"b64_json":"B"}],"size":"1024x1536","quality":"high"}"#;
    let (size, quality) = kind("1024x1536", "high");
    assert_eq!(read(Operation::Images, false, named), (Some(2), size, quality));
    assert_eq!(read(Operation::Images, false, r#"{"data":[{}],"size":"auto"}"#), (Some(1), None, None));

    let event = |kind: &str, more: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{more}}}\n\n");
    let big = "A".repeat(EVENT_LIMIT_BYTES + 100_000);
    let streamed = [
        event("image_generation.partial_image", ",\"b64_json\":\"A\",\"size\":\"1024x1024\""),
        event(
            "image_generation.completed",
            ",\"b64_json\":\"A\",\"size\":\"1024x1024\",\"usage\":{\"total_tokens\":3}",
        ),
        event(
            "image_generation.completed",
            &format!(",\"b64_json\":\"{big}\",\"quality\":\"low\",\"usage\":{{\"total_tokens\":3}}"),
        ),
        event("image_generation.partial_image", &format!(",\"b64_json\":\"{big}\"")),
    ];
    let (size, quality) = kind("1024x1024", "low");
    assert_eq!(read(Operation::Images, true, &streamed.concat()), (Some(2), size, quality));

    let call = |status: &str, result: &str| {
        format!(
            r#"{{"id":"ig_1","type":"image_generation_call","status":"{status}","quality":"high","result":"{result}"}}"#
        )
    };
    let response = |output: &str| {
        format!(
            r#"{{"object":"response","output":[{output}],"tools":[{{"type":"image_generation"}}],"usage":{{"total_tokens":1}}}}"#
        )
    };
    let text = r#"{"type":"message","content":[{"type":"output_text","text":"\"image_generation_call\""}]}"#;
    assert_eq!(read(Operation::Responses, false, &response(text)), (None, None, None));
    let both = response(&[text, &call("completed", "A"), &call("failed", ""), &call("completed", "B")].join(","));
    assert_eq!(read(Operation::Responses, false, &both), (Some(2), None, Some("high".to_owned())));
    let large = response(&[call("completed", &big), call("completed", "B")].join(","));
    assert_eq!(read(Operation::Responses, false, &large).0, Some(2), "beyond what is kept");

    let drawn = event("response.image_generation_call.completed", ",\"item_id\":\"ig_1\"");
    let last = event("response.completed", &format!(",\"response\":{}", response(&call("completed", "A"))));
    let begun = event("response.created", ",\"response\":{\"id\":\"r\",\"model\":\"m\"}");
    let many = event("response.output_text.delta", ",\"delta\":\"x\"").repeat(40);
    let stream = [begun, many, drawn.clone(), drawn, last].concat();
    assert_eq!(read(Operation::Responses, true, &stream), (Some(2), None, Some("high".to_owned())));
}

#[test]
fn an_answer_that_is_still_being_made_says_so_until_it_is_made() {
    let event = |kind: &str, status: &str| {
        let response = format!(r#"{{"id":"resp_1","status":"{status}","usage":null}}"#);
        Bytes::from(format!("data: {{\"type\":\"{kind}\",\"response\":{response}}}\n\n"))
    };
    let mut reader = AnswerReader::new(Operation::Responses, true, false);
    assert!(!reader.is_running());
    reader.push(event("response.queued", "queued"), false);
    assert_eq!((reader.is_running(), reader.response_id()), (true, Some("resp_1")));
    reader.push(event("response.in_progress", "in_progress"), false);
    assert!(reader.is_running());
    reader.push(event("response.failed", "failed"), true);
    assert_eq!((reader.is_running(), reader.finish_reason()), (false, Some("failed")));
    assert!(reader.is_read_whole());

    let mut large = AnswerReader::new(Operation::Responses, false, false);
    large.push(Bytes::from(format!("{{\"output\":\"{}\",\"usage\":{{}}}}", "x".repeat(2 << 20))), true);
    assert!(!large.is_read_whole());
}
