//! Golden files: bodies and streams pass unchanged except where documented, and every vendor's usage is read as its file
//! says. Also the figures of speed, on demand: `cargo test --release --lib golden::speed -- --ignored --nocapture`.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;

use crate::dialect::Changes;
use crate::dialect::answer::AnswerReader;
use crate::dialect::openai::understand;
use crate::dialect::operation::Operation;
use crate::dialect::value::Value;
use crate::unit::clock::Tick;
use crate::unit::usage::Usage;

/// The files of a folder whose names end so: the names without that end, and the contents.
fn files(folder: &str, end: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dialect").join(folder);
    let mut found: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(end)?.to_owned();
            Some((name, fs::read(path).unwrap()))
        })
        .collect();
    assert!(!found.is_empty(), "{}", folder.display());
    found.sort();
    found
}

/// Pairs of what goes in and what must come out.
fn pairs(folder: &str, end: &str) -> Vec<(String, Bytes, Vec<u8>)> {
    let inputs = files(folder, &format!(".in.{end}"));
    let outputs = files(folder, &format!(".out.{end}"));
    assert_eq!(inputs.len(), outputs.len());
    inputs
        .into_iter()
        .zip(outputs)
        .map(|((name, input), (other, output))| {
            assert_eq!(name, other);
            (name, Bytes::from(input), output)
        })
        .collect()
}

#[test]
fn bodies_change_only_where_documented() {
    for (name, input, output) in pairs("body", "json") {
        for operation in [Operation::Chat, Operation::Passthrough] {
            let facts = understand(operation, None, &input).unwrap();
            let named = facts.model.clone().unwrap();
            let same = facts.body_for(&input, &Changes { model: Some(&named), ..Changes::default() });
            assert_eq!(same.as_ptr(), input.as_ptr(), "{name}: nothing to change, nothing copied");
            if operation == Operation::Chat {
                let changed = facts.body_for(&input, &asking("target/model"));
                assert_eq!(String::from_utf8_lossy(&changed), String::from_utf8_lossy(&output), "{name}");
                // What comes out says the same except for the splices, and asks for nothing twice.
                let again = understand(operation, None, &changed).unwrap();
                assert_eq!(again.wants_usage, facts.stream, "{name}");
                assert_eq!(again.body_for(&changed, &asking("target/model")).as_ptr(), changed.as_ptr(), "{name}");
            } else {
                let unasked = facts.body_for(&input, &asking(&named));
                assert_eq!(unasked.as_ptr(), input.as_ptr(), "{name}: only chats and completions are asked for usage");
            }
        }
    }
}

#[test]
fn a_model_is_written_so_that_it_reads_back() {
    let body = Bytes::from_static(br#"{"model":"a","messages":[{}]}"#);
    let facts = understand(Operation::Chat, None, &body).unwrap();
    let changed =
        facts.body_for(&body, &Changes { model: Some("b\"\\\u{e9}\r\n\",\"n\":128,\"x\":\""), ..Changes::default() });
    let again = understand(Operation::Chat, None, &changed).unwrap();
    assert_eq!(again.model.as_deref(), Some("b\"\\\u{e9}\",\"n\":128,\"x\":\""));
    assert_eq!(again.choices, 1);
}

#[test]
fn streams_change_only_by_the_usage_event() {
    for (name, input, output) in pairs("stream", "sse") {
        for hide in [false, true] {
            for size in [1, 2, 3, 16, 100, 1 << 20] {
                let mut reader = AnswerReader::new(Operation::Chat, true, hide);
                let mut out = Vec::new();
                let mut completed_at = None;
                for (index, start) in (0..input.len()).step_by(size).enumerate() {
                    let piece = input.slice(start..input.len().min(start + size));
                    let relayed = reader.push(piece, false);
                    out.extend_from_slice(&relayed.bytes);
                    completed_at = completed_at.or(relayed.complete.then_some(index));
                }
                assert!(reader.push(Bytes::new(), true).complete);
                let expected = if hide { &output[..] } else { &input[..] };
                // A line feed whose CR came with the hidden event is left over; it means nothing.
                let shown = String::from_utf8_lossy(&out).replace("\r\n\r\n\n", "\r\n\r\n");
                assert_eq!(shown, String::from_utf8_lossy(expected), "{name} by {size}");
                // The last line feed of a CRLF is not needed to know the end.
                let last = [(input.len() - 2) / size, (input.len() - 1) / size];
                assert!(completed_at.is_some_and(|index| last.contains(&index)), "{name} by {size}");
                assert_eq!(reader.usage(), Some(Usage { input: 9, output: 2, ..Usage::default() }), "{name} by {size}");
                assert_eq!(reader.finish_reason(), Some("stop"), "{name} by {size}");
                assert!(reader.first_token_seen() && reader.stream_error().is_none());
            }
        }
    }
}

#[test]
fn every_vendor_counts_as_its_file_says() {
    for (name, file) in files("usage", ".json") {
        let case = Value::first(&file).unwrap();
        let word = case.get("operation").unwrap().string().unwrap();
        let operation = [
            Operation::Chat,
            Operation::Responses,
            Operation::Embeddings,
            Operation::Images,
            Operation::Audio,
            Operation::Passthrough,
        ]
        .into_iter()
        .find(|operation| operation.name() == word)
        .unwrap();
        let expected: Option<Usage> = serde_json::from_slice(case.get("usage").unwrap().raw()).unwrap();
        let answer = case.get("answer").unwrap();
        // Read off an answer, and off an event of a stream.
        let mut reader = AnswerReader::new(operation, false, false);
        reader.push(Bytes::copy_from_slice(answer.raw()), true);
        assert_eq!(reader.usage(), expected, "{name}");
        let compact: serde_json::Value = serde_json::from_slice(answer.raw()).unwrap();
        let mut reader = AnswerReader::new(operation, true, false);
        reader.push(Bytes::from(format!("data: {compact}\n\n")), false);
        assert_eq!(reader.usage(), expected, "{name}");
    }
}

/// Nanoseconds of the fastest of several rounds.
fn fastest(rounds: usize, repeat: u32, mut work: impl FnMut()) -> u128 {
    let round = |work: &mut dyn FnMut()| {
        let start = Tick::now();
        (0..repeat).for_each(|_| work());
        start.elapsed().as_nanos() / u128::from(repeat)
    };
    (0..rounds).map(|_| round(&mut work)).min().unwrap()
}

#[test]
#[ignore = "prints figures of speed; run it with --release"]
fn speed() {
    let report = |what: &str, nanoseconds: u128| println!("{what}: {nanoseconds} ns");
    let prose = "The quick brown fox jumps over the lazy dog, and then it does it all over again. ";
    let code = "fn main() {\\n    println!(\\\"{}\\\", name);\\n}\\n";
    for (what, content, messages) in [
        ("200 KB chat, one long message", prose.repeat(2_500), 1),
        ("200 KB chat, 100 messages", prose.repeat(25), 100),
        ("200 KB chat of code, an escape every 15 bytes", code.repeat(4_500), 1),
        ("200 KB chat, not ASCII", "Über größere Flüsse führen Brücken, 橋を渡る。 ".repeat(3_500), 1),
        ("1 KB chat", prose.repeat(12), 1),
    ] {
        let one = format!("{{\"role\":\"user\",\"content\":\"{content}\"}}");
        let all = vec![one; messages].join(",");
        let body = Bytes::from(format!("{{\"model\":\"gpt-4o\",\"stream\":true,\"messages\":[{all}]}}"));
        let understood = fastest(20, 50, || {
            std::hint::black_box(understand(Operation::Chat, None, std::hint::black_box(&body)).unwrap());
        });
        report(&format!("understand, {what} ({} bytes)", body.len()), understood);
        let facts = understand(Operation::Chat, None, &body).unwrap();
        let spliced = fastest(20, 50, || {
            std::hint::black_box(facts.body_for(&body, &asking("other")));
        });
        report("  body_for with both splices", spliced);
    }
    let chunk = Bytes::from_static(b"data: {\"id\":\"chatcmpl-AbCdEfGhIjKlMnOpQrStUv\",\"object\":\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"gpt-4o\",\"system_fingerprint\":\"fp_0123456789\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}],\"usage\":null}\n\n");
    for hide in [false, true] {
        let relay = |chunks: usize| {
            fastest(20, 20, || {
                let mut reader = AnswerReader::new(Operation::Chat, true, hide);
                for _ in 0..chunks {
                    std::hint::black_box(reader.push(chunk.clone(), false));
                }
                std::hint::black_box(&reader);
            })
        };
        report(&format!("SSE chunk of {} bytes, hide_usage {hide}", chunk.len()), relay(1_000) / 1_000);
        report("  a stream of one chunk", relay(1));
    }
}

/// Another model, and usage asked for.
fn asking(model: &str) -> Changes<'_> {
    Changes { model: Some(model), ask_usage: true, ceiling: None }
}
