//! The simulated provider over a real socket.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::*;

/// A served provider; it stops when this is dropped.
struct Served {
    base_url: String,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
}

fn served() -> Served {
    let listener = bind().unwrap();
    let base_url = listener.base_url();
    let (stop, stopped) = watch::channel(false);
    let serving = task::spawn("simulated", listener.serve(stopped));
    Served { base_url, stop, serving }
}

impl Served {
    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let address = self.base_url.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        task::spawn("client", async {
            // Broken connections are what some tests are about.
            connection.await.unwrap_or_default();
        });
        sender
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Response<Incoming> {
        let request = Request::builder().method(method).uri(path).header("host", "simulated");
        self.connect().await.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
    }

    /// Posts JSON and reads JSON.
    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let response = self.send("POST", path, body.to_string()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn answer(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Posts, and reads the data of every event.
    async fn events(&self, path: &str, body: Value) -> Vec<String> {
        let response = self.send("POST", path, body.to_string()).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert!(text.ends_with("\n\n"));
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }
}

const CHAT: &str = "/v1/chat/completions";

fn ask(model: &str, more: Value) -> Value {
    let mut ask = json!({"model": model, "messages": [{"role": "user", "content": "What is the weather in Paris?"}]});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask
}

fn weather() -> Value {
    let city = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!([{"type": "function", "function": {"name": "get_weather", "parameters": city}}])
}

#[track_caller]
fn check_refused((status, answer): (u16, Value), expected: u16, param: Value) {
    assert_eq!((status, &answer["error"]["param"]), (expected, &param), "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.len() > 10), "{answer}");
    assert!(answer["error"]["type"].is_string() && answer["error"].get("code").is_some(), "{answer}");
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_refused() {
    let served = served();
    check_refused(served.post("/v1/nothing", json!({})).await, 404, Value::Null);
    check_refused(served.post("/v1", json!({})).await, 404, Value::Null);
    check_refused(served.post("/v1/models", json!({})).await, 405, Value::Null);
    let response = served.send("GET", CHAT, "").await;
    assert_eq!((response.status().as_u16(), &response.headers()["allow"]), (405, &"POST".parse().unwrap()));
}

#[tokio::test]
async fn a_body_that_is_no_request_is_refused() {
    let served = served();
    for body in ["", "{", "[]", "7", "\"x\"", "{\"model\": \"sim-small\"", "\u{feff}{}"] {
        assert_eq!(served.send("POST", CHAT, body).await.status(), 400, "{body}");
    }
    assert_eq!(served.send("POST", CHAT, b"{\"model\": \"\xff\"}".to_vec()).await.status(), 400);
    assert_eq!(served.send("POST", CHAT, "[".repeat(100_000)).await.status(), 400);
    check_refused(served.post(CHAT, json!({})).await, 400, json!("model"));
    check_refused(served.post(CHAT, json!({"model": ""})).await, 400, json!("model"));
    check_refused(served.post(CHAT, json!({"model": 7})).await, 400, json!("model"));
    check_refused(served.post(CHAT, json!({"model": "m".repeat(257)})).await, 400, json!("model"));
}

#[tokio::test]
async fn a_body_beyond_64_mib_is_refused() {
    let served = served();
    let response = served.send("POST", CHAT, vec![b' '; 64 * 1024 * 1024 + 1]).await;
    assert_eq!(response.status(), 413);
}

#[tokio::test]
async fn a_chat_with_a_wrong_field_is_refused_by_its_name() {
    let served = served();
    for (field, value) in [
        ("messages", json!([])),
        ("messages", json!("hi")),
        ("messages", json!([7])),
        ("messages", json!([{"role": "robot", "content": "hi"}])),
        ("messages", json!([{"role": "user", "content": 7}])),
        ("messages", json!([{"role": "user"}])),
        ("messages", json!([{"role": "user", "content": [{"type": "text"}]}])),
        ("n", json!(0)),
        ("n", json!(17)),
        ("stream", json!("yes")),
        ("stream_options", json!({"include_usage": true})),
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!(-1)),
        ("temperature", json!(2.1)),
        ("stop", json!(["a", "b", "c", "d", "e"])),
        ("tools", json!([{"type": "function"}])),
        ("tools", json!([{"type": "function", "function": {"name": "n".repeat(257)}}])),
        ("tool_choice", json!("required")),
        ("tool_choice", json!({"type": "function", "function": {"name": "nobody"}})),
        ("response_format", json!({"type": "xml"})),
        ("response_format", json!({"type": "json_schema"})),
    ] {
        check_refused(served.post(CHAT, ask("sim-small", json!({field: value}))).await, 400, json!(field));
    }
}

#[tokio::test]
async fn a_failing_model_answers_its_status_in_openai_shape() {
    let served = served();
    for path in [CHAT, "/v1/embeddings", "/v1/responses", "/v1/completions"] {
        check_refused(served.post(path, ask("sim-error-503", json!({"stream": true}))).await, 503, Value::Null);
    }
    let response = served.send("POST", CHAT, ask("sim-error-429", json!({})).to_string()).await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    let body: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
}

#[tokio::test]
async fn a_cut_answer_breaks_in_its_middle() {
    let served = served();
    for stream in [false, true] {
        let response = served.send("POST", CHAT, ask("sim-cut", json!({"stream": stream})).to_string()).await;
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut received = 0;
        let broken = loop {
            match body.frame().await {
                Some(Ok(frame)) => received += frame.into_data().unwrap().len(),
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert!(broken && received > 100, "{stream} {received}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_answer_keeps_silent_until_its_connection_breaks() {
    let behaviour = behaviour::Behaviour::of("sim-stall");
    let frames = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    let mut body = wire::response(wire::Content::Events(frames), behaviour).into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    let silence = tokio::time::timeout(Duration::from_secs(599), body.frame()).await;
    assert!(silence.is_err());
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn a_chat_is_answered_with_its_own_words_and_counted() {
    let served = served();
    let answer = served.answer(CHAT, ask("any/model", json!({}))).await;
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("any/model")));
    let choice = &answer["choices"][0];
    assert!(choice["message"]["content"].as_str().unwrap().contains("What is the weather in Paris?"));
    assert_eq!((&choice["finish_reason"], &choice["message"]["role"]), (&json!("stop"), &json!("assistant")));
    assert!(answer["system_fingerprint"].is_string() && answer["service_tier"] == "default");
    let usage = &answer["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap();
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 0);
    let again = served.answer("/chat/completions", ask("any/model", json!({}))).await;
    assert_eq!((&again["choices"], &again["usage"]), (&answer["choices"], &answer["usage"]));
}

#[tokio::test]
async fn limits_stops_and_numbers_of_answers_are_kept() {
    let served = served();
    let answer = served.answer(CHAT, ask("sim-small", json!({"max_tokens": 3, "n": 2}))).await;
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
    assert_eq!(answer["choices"][1]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    let answer = served.answer(CHAT, ask("sim-small", json!({"stop": "weather"}))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "You said: “What is the ");
    let answer = served.answer(CHAT, ask("sim-reasoner", json!({}))).await;
    let reasoning = answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert!(reasoning > 0 && answer["usage"]["completion_tokens"].as_u64().unwrap() > reasoning);
}

#[tokio::test]
async fn a_stream_has_a_role_then_words_then_an_end_and_the_words_of_the_plain_answer() {
    let served = served();
    let plain = served.answer(CHAT, ask("sim-fast", json!({}))).await;
    let events = served.events(CHAT, ask("sim-fast", json!({"stream": true}))).await;
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none() && chunk["object"] == "chat.completion.chunk"));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    let said: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(said, plain["choices"][0]["message"]["content"].as_str().unwrap());
    assert!(chunks.len() > 20);
}

#[tokio::test]
async fn a_stream_ends_with_its_usage_only_if_asked() {
    let served = served();
    let plain = served.answer(CHAT, ask("sim-fast", json!({"n": 2}))).await;
    let more = json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}});
    let events = served.events(CHAT, ask("sim-fast", more)).await;
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &plain["usage"]));
    assert!(others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    assert!(others.iter().any(|chunk| chunk["choices"][0]["index"] == 1));
}

#[tokio::test]
async fn a_tool_is_called_plain_and_streamed_and_its_answer_is_told() {
    let served = served();
    let plain = served.answer(CHAT, ask("sim-fast", json!({"tools": weather()}))).await;
    let choice = &plain["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("get_weather")));
    assert_eq!(call["function"]["arguments"], "{\"city\":\"Paris\"}");

    let events = served.events(CHAT, ask("sim-fast", json!({"tools": weather(), "stream": true}))).await;
    let deltas: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str::<Value>(event).unwrap()["choices"][0]["delta"]["tool_calls"][0].clone())
        .collect();
    assert!(deltas[0]["id"].is_string() && deltas[0]["function"]["name"] == "get_weather");
    let arguments: String = deltas.iter().filter_map(|delta| delta["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments, "{\"city\":\"Paris\"}");
    assert!(deltas.iter().filter(|delta| !delta.is_null()).all(|delta| delta["index"] == 0));

    let mut after = ask("sim-fast", json!({"tools": weather()}));
    let messages = after["messages"].as_array_mut().unwrap();
    messages.push(choice["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "22 degrees"}));
    let told = served.answer(CHAT, after).await;
    assert!(told["choices"][0]["message"]["content"].as_str().unwrap().contains("22 degrees"));
}

#[tokio::test]
async fn an_answer_takes_the_form_that_was_asked_for() {
    let served = served();
    let content = |answer: Value| -> Value {
        serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap()
    };
    let answer = served.answer(CHAT, ask("sim-small", json!({"response_format": {"type": "json_object"}}))).await;
    assert!(content(answer).is_object());
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let format = json!({"type": "json_schema", "json_schema": {"name": "place", "strict": true, "schema": schema}});
    let answer = served.answer(CHAT, ask("sim-small", json!({"response_format": format}))).await;
    assert_eq!(content(answer), json!({"city": "Paris"}));
}

#[tokio::test]
async fn texts_are_completed() {
    let served = served();
    let path = "/v1/completions";
    check_refused(served.post(path, json!({"model": "m"})).await, 400, json!("prompt"));
    check_refused(served.post(path, json!({"model": "m", "prompt": [[]]})).await, 400, json!("prompt"));
    let long = json!({"model": "m", "prompt": "word ".repeat(20_000), "echo": true});
    check_refused(served.post(path, long).await, 400, json!("echo"));
    let body = json!({"model": "m", "prompt": ["one", [1, 2, 3]], "echo": true, "max_tokens": 2});
    let answer = served.answer(path, body).await;
    assert_eq!(answer["choices"][0]["text"], "oneYou said:");
    assert_eq!(answer["choices"][1]["finish_reason"], "length");
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(4), &json!(4)));
    let events = served.events(path, json!({"model": "sim-fast", "prompt": "one", "stream": true})).await;
    assert!(events.len() > 10 && events.last().unwrap() == "[DONE]");
}

#[tokio::test]
async fn embeddings_are_unit_vectors_of_the_input_alone() {
    let served = served();
    let path = "/v1/embeddings";
    for wrong in [json!(""), json!([]), json!([""]), json!([[]]), json!(7), json!({}), json!([1, "a"]), json!([-1])] {
        check_refused(served.post(path, json!({"model": "m", "input": wrong})).await, 400, json!("input"));
    }
    let many = json!({"model": "m", "input": vec!["a"; 2_048], "dimensions": 4_096});
    check_refused(served.post(path, many).await, 400, json!("input"));
    check_refused(
        served.post(path, json!({"model": "m", "input": "a", "dimensions": 0})).await,
        400,
        json!("dimensions"),
    );
    let wrong = json!({"model": "m", "input": "a", "encoding_format": "hex"});
    check_refused(served.post(path, wrong).await, 400, json!("encoding_format"));

    let floats = served.answer(path, json!({"model": "m", "input": ["a", "b"], "dimensions": 64})).await;
    let vector =
        |index: usize| -> Vec<f32> { serde_json::from_value(floats["data"][index]["embedding"].clone()).unwrap() };
    let length: f32 = vector(0).iter().map(|number| number * number).sum();
    assert!((length - 1.0).abs() < 1e-4, "{length}");
    assert_ne!(vector(0), vector(1));
    let base64 = json!({"model": "m", "input": "b", "dimensions": 64, "encoding_format": "base64"});
    let encoded = served.answer(path, base64).await;
    let bytes = data_encoding::BASE64.decode(encoded["data"][0]["embedding"].as_str().unwrap().as_bytes()).unwrap();
    let decoded: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
    assert_eq!(decoded, vector(1));
    let ids = served.answer(path, json!({"model": "m", "input": [1, 2, 3]})).await;
    assert_eq!(
        (ids["data"][0]["embedding"].as_array().unwrap().len(), &ids["usage"]["total_tokens"]),
        (1_536, &json!(3))
    );
}

#[tokio::test]
async fn a_response_is_given_plain_and_streamed() {
    let served = served();
    let path = "/v1/responses";
    check_refused(served.post(path, json!({"model": "m"})).await, 400, json!("input"));
    check_refused(served.post(path, json!({"model": "m", "input": [7]})).await, 400, json!("input"));
    let plain = served.answer(path, json!({"model": "sim-reasoner", "input": "Hello"})).await;
    assert_eq!((&plain["status"], &plain["output"][0]["type"]), (&json!("completed"), &json!("reasoning")));
    assert!(plain["output"][1]["content"][0]["text"].as_str().unwrap().contains("Hello"));

    let events = served.events(path, json!({"model": "sim-fast", "input": "Hello", "stream": true})).await;
    let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    assert_eq!((&events[0]["type"], &events[0]["response"]["output"]), (&json!("response.created"), &json!([])));
    let whole = &events.last().unwrap()["response"];
    let said: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(whole["output"][0]["content"][0]["text"], said);
    let short = served.answer(path, json!({"model": "m", "input": "Hello", "max_output_tokens": 2})).await;
    assert_eq!((&short["status"], &short["usage"]["output_tokens"]), (&json!("incomplete"), &json!(2)));
}

#[tokio::test]
async fn a_response_calls_a_tool_and_tells_its_answer() {
    let served = served();
    let path = "/v1/responses";
    let tools = json!([{"type": "web_search"}, {"type": "function", "name": "get_weather", "parameters": {"type": "object",
        "properties": {"city": {"type": "string"}}}}]);
    let user = json!({"role": "user", "content": [{"type": "input_text", "text": "The weather in Rome?"}]});
    let call = served.answer(path, json!({"model": "m", "input": [user], "tools": tools})).await["output"][0].clone();
    assert_eq!((&call["type"], &call["arguments"]), (&json!("function_call"), &json!("{\"city\":\"Rome\"}")));
    let output = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "22 degrees"});
    let told = served.answer(path, json!({"model": "m", "input": [user, call, output], "tools": tools})).await;
    assert!(told["output"][0]["content"][0]["text"].as_str().unwrap().contains("22 degrees"));
}

#[tokio::test]
async fn texts_are_moderated_and_images_drawn() {
    let served = served();
    check_refused(served.post("/v1/moderations", json!({"input": 7})).await, 400, json!("input"));
    let answer = served.answer("/v1/moderations", json!({"input": ["fine", "flag-me"]})).await;
    let flagged: Vec<&Value> = answer["results"].as_array().unwrap().iter().map(|result| &result["flagged"]).collect();
    assert_eq!(flagged, [false, true]);
    check_refused(served.post("/v1/images/generations", json!({"prompt": ""})).await, 400, json!("prompt"));
    check_refused(served.post("/v1/images/generations", json!({"prompt": "a cat", "n": 11})).await, 400, json!("n"));
    let answer = served.answer("/v1/images/generations", json!({"prompt": "a cat", "n": 2})).await;
    let image = answer["data"][1]["b64_json"].as_str().unwrap();
    assert!(data_encoding::BASE64.decode(image.as_bytes()).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
}

#[tokio::test]
async fn models_are_listed() {
    let served = served();
    let response = served.send("GET", "/v1/models", "").await;
    let list: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert!(list["data"].as_array().unwrap().iter().any(|model| model["id"] == "sim-small"));
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let served = served();
    let mut sender = served.connect().await;
    for _ in 0..3 {
        sender.ready().await.unwrap();
        let request = Request::post(CHAT).header("host", "simulated");
        let request = request.body(Full::new(ask("sim-small", json!({})).to_string().into())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert!(response.headers()["x-request-id"].to_str().unwrap().starts_with("req_"));
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::test]
async fn a_stop_lets_the_running_answer_finish_and_takes_nothing_new() {
    let served = served();
    let idle = served.connect().await;
    let response = served.send("POST", CHAT, ask("sim-small", json!({"stream": true})).to_string()).await;
    served.stop.send(true).unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    served.serving.await.unwrap();
    assert!(idle.is_closed() || !idle.is_ready());
    let address = served.base_url.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_stop_is_also_that_nobody_is_left_to_stop_it() {
    let Served { stop, serving, .. } = served();
    drop(stop);
    serving.await.unwrap();
}
