//! What an application may write to get past a policy, and why it does not.

use serde_json::{Value, json};

use crate::kavach::{CAP, EVERYONE, chat, gateway, verdict};
use crate::support::client::Call;
use crate::support::upstream::Upstream;

const NO_TOOLS: &str = "@id(\"no-tools\") forbid(principal, action, resource) when { \
        context.tools.containsAny([\"shell\", \"web_search\", \"mcp\", \"web\"]) };\n\
        @id(\"no-media\") forbid(principal, action, resource) when { \
        context.modalities.containsAny([\"image\", \"audio\", \"file\", \"video\"]) };\n";

#[tokio::test]
async fn no_field_of_a_chat_that_changes_the_cost_or_the_tools_evades_a_policy() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "enforce", &format!("{EVERYONE}{CAP}{NO_TOOLS}")).await;
    let short = |more: Value| {
        let mut body = chat(json!({"max_tokens": 10}));
        crate::support::marg::merge(&mut body, more);
        body
    };
    let part = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    let chats = [
        short(json!({"functions": [{"name": "shell"}]})),
        short(json!({"functions": [{"name": "shell"}], "function_call": {"name": "shell"}})),
        short(json!({"tools": [{"type": "function", "function": {"name": "shell"}}], "tool_choice": "none"})),
        short(json!({"tools": [{"type": "web_search", "name": "harmless"}]})),
        short(json!({"web_search_options": {}})),
        short(json!({"plugins": [{"id": "web"}]})),
        short(json!({"mcp_servers": [{"type": "url", "url": "https://x", "name": "crm"}]})),
        short(part(json!({"type": "image_url", "image_url": {"url": "https://x/y.png"}}))),
        short(part(json!({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}))),
        short(part(json!({"type": "file", "file": {"file_data": "AA=="}}))),
        short(part(json!({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}))),
        short(json!({"modalities": ["text", "audio"]})),
        short(json!({"n": 11})),
        short(json!({"max_completion_tokens": 101})),
    ];
    for (index, body) in chats.iter().enumerate() {
        let case = format!("chat {index}");
        let refused = marg.chat(&case, body).await;
        assert_eq!(refused.status, 403, "{body}: {}", refused.text());
        assert!(upstream.seen(&case).is_empty(), "{body}: the provider was asked");
    }
}

#[tokio::test]
async fn no_spelling_and_no_other_endpoint_evades_a_policy() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "enforce", &format!("{EVERYONE}{CAP}{NO_TOOLS}")).await;
    let post = async |path: &str, case: &str, body: String| {
        let answer = marg.send(Call::post(path, case, body)).await;
        assert!(upstream.seen(case).is_empty(), "{path} {case}: the provider was asked");
        answer
    };
    let escaped = r#"{"model":"m","max_tokens":10,"messages":[{"role":"user","content":[{"typ\u0065":"im\u0061ge_url","image_url":{"url":"https://x"}}]}]}"#;
    assert_eq!(post("/v1/chat/completions", "escaped", escaped.to_owned()).await.status, 403);
    for (path, case, body) in [
        (
            "/v1/responses",
            "search",
            json!({"model": "m", "input": "x", "max_output_tokens": 10, "tools": [{"type": "web_search"}]}),
        ),
        (
            "/v1/responses",
            "mcp",
            json!({"model": "m", "input": "x", "max_output_tokens": 10,
            "tools": [{"type": "mcp", "server_label": "crm", "server_url": "https://x"}]}),
        ),
        (
            "/v1/responses",
            "image",
            json!({"model": "m", "max_output_tokens": 10,
            "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x"}]}]}),
        ),
        ("/v1/responses", "no cap", json!({"model": "m", "input": "x"})),
        ("/v1/completions", "best of", json!({"model": "m", "prompt": "x", "max_tokens": 10, "best_of": 11})),
        ("/v1/completions", "n", json!({"model": "m", "prompt": "x", "max_tokens": 60, "n": 2, "best_of": 2})),
        ("/v1/completions", "prompts", json!({"model": "m", "prompt": vec!["x"; 11], "max_tokens": 10})),
    ] {
        let refused = post(path, case, body.to_string()).await;
        assert_eq!(refused.status, 403, "{path} {body}: {}", refused.text());
    }
    // What is no proper number, or no proper name, is no request.
    for (index, more) in [
        r#""max_tokens":10.5"#,
        r#""max_tokens":1e3"#,
        r#""max_tokens":-0"#,
        r#""max_tokens":true"#,
        r#""max_tokens":[10]"#,
        r#""max_tokens":18446744073709551616"#,
        r#""n":-1"#,
        r#""n":"2""#,
        r#""n":0.5"#,
        r#""n":1e400"#,
        r#""max_tokens":10,"MAX_TOKENS":9999"#,
        r#""max_tokens":10,"Tools":[{"type":"function","function":{"name":"shell"}}]"#,
        r#""max_tokens":10,"max_tok\u0065ns":9999"#,
        r#""tools":{"a":1}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{more}}}"#);
        let refused = post("/v1/chat/completions", &format!("odd {index}"), body).await;
        assert!(matches!(refused.status, 400 | 403), "{more}: {} {}", refused.status, refused.text());
    }
}

#[tokio::test]
async fn neither_another_path_nor_another_models_name_nor_a_missing_type_evades_a_policy() {
    let upstream = Upstream::http1().await;
    let rules = "@id(\"no-chat\") forbid(principal, action == Action::\"chat\", resource == Model::\"main/evil\");\n\
                 @id(\"long\") forbid(principal, action, resource) when { context.estimated_input_tokens > 1000 };\n";
    let marg = gateway(&upstream, "enforce", &format!("{EVERYONE}{CAP}{NO_TOOLS}{rules}")).await;
    let post = async |path: &str, case: &str, body: String| {
        let answer = marg.send(Call::post(path, case, body)).await;
        assert!(upstream.seen(case).is_empty(), "{path} {case}: the provider was asked");
        answer
    };
    let evil = chat(json!({"model": "evil", "max_tokens": 10})).to_string();
    assert_eq!(post("/v1/chat/completions", "plain", evil.clone()).await.status, 403);
    for path in
        ["chat/completion%73", "%63hat/completions", "Chat/Completions", "chat/completions%20", "chat/completions."]
    {
        assert_eq!(post(&format!("/v1/{path}"), path, evil.clone()).await.status, 400, "{path}");
    }
    let part = |part: &str| format!(r#""max_tokens":10,"messages":[{{"role":"user","content":[{part}]}}]"#);
    for (index, more) in [
        r#""messages":[{"role":"user","content":"x"}],"max_tokens":10,"models":["m","evil"]"#,
        r#""messages":[{"role":"user","content":"x"}],"max_tokens":10,"fallbacks":[{"model":"evil"}]"#,
        r#""messages":[{"role":"user","content":"x"}],"max_output_tokens":10"#,
        r#""messages":[{"role":"user","content":"x"}],"max_tokens":60,"thinking_budget":41"#,
        r#""messages":[{"role":"user","content":"x"}],"max_tokens":10,"thinking":{"budget_tokens":91}"#,
        r#""messages":[{"role":"user","content":"x"}],"max_tokens":10,"search_parameters":{"mode":"on"}"#,
        r#""messages":[{"role":"user","content":"x"}],"max_tokens":10,"enable_search":true"#,
        r#""messages":[{"role":"assistant","audio":{"id":"a"}},{"role":"user","content":"x"}],"max_tokens":10"#,
        &part(r#"{"image_url":{"url":"https://x"}}"#),
        &part(r#"{"image_url":"https://x"}"#),
        &part(r#"{"type":"IMAGE_URL","im\u0061ge_url":{"url":"https://x"}}"#),
        &part(r#"{"type":"text","text":"x","video_url":{"url":"https://x"}}"#),
        &part(r#"{"input_audio":{"data":"AA==","format":"wav"}}"#),
        &part(r#"{"file":{"file_id":"f"}}"#),
    ]
    .into_iter()
    .enumerate()
    {
        let refused =
            post("/v1/chat/completions", &format!("chat {index}"), format!(r#"{{"model":"m",{more}}}"#)).await;
        assert_eq!(refused.status, 403, "{more}: {}", refused.text());
    }
    for (path, case, more) in [
        ("/v1/responses", "another ceiling", r#""input":"x","max_tokens":10"#),
        ("/v1/completions", "a ceiling of chats", r#""prompt":"x","max_completion_tokens":10"#),
        // What passes through is judged by the worst reading.
        ("/v1/other", "odd n", r#""max_tokens":60,"n":"2""#),
        ("/v1/other", "odd ceiling", r#""max_tokens":10,"max_completion_tokens":"9999""#),
        ("/v1/other", "no ceiling", r#""max_tokens":0"#),
    ] {
        let refused = post(path, case, format!(r#"{{"model":"m",{more}}}"#)).await;
        assert_eq!(refused.status, 403, "{path} {more}: {}", refused.text());
    }
    assert_eq!(post("/v1/chat/completions", "nothing", chat(json!({"max_tokens": 0})).to_string()).await.status, 400);
    // Tokens that are given as numbers are tokens.
    let numbers = json!({"model": "long", "input": [vec![7; 600], vec![7; 600]]}).to_string();
    assert_eq!(post("/v1/embeddings", "numbers", numbers).await.status, 403);
    // A tool may have a parameter that is called as media are.
    let parameters =
        json!({"type": "object", "properties": {"image_url": {"type": "string"}, "file": {"type": "string"}}});
    let tool = json!([{"type": "function", "function": {"name": "look", "parameters": parameters}}]);
    let passed = marg.chat("tool", &chat(json!({"max_tokens": 10, "tools": tool, "models": ["m", "n"]}))).await;
    assert_eq!((passed.status, verdict(&passed)), (200, ("enforce", "allow")), "{}", passed.text());
    // Observing says the same of the other model.
    let marg = gateway(&upstream, "observe", &format!("{EVERYONE}{rules}")).await;
    let passed = marg.chat("observed", &chat(json!({"models": ["evil"]}))).await;
    assert_eq!((passed.status, verdict(&passed)), (200, ("observe", "would-deny")), "{}", passed.text());
}

#[tokio::test]
async fn what_is_called_a_form_and_reads_as_json_elsewhere_is_refused() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "enforce", EVERYONE).await;
    let evil = json!({"model": "evil", "max_tokens": 100_000, "messages": []}).to_string();
    let part = "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nm\r\n--x--\r\n";
    let forms = [
        ("application/x-www-form-urlencoded", format!("{evil}&model=m")),
        ("application/x-www-form-urlencoded", format!(" \r\n{evil}&model=m")),
        ("application/x-www-form-urlencoded", format!("\u{feff}{evil}&model=m")),
        ("application/x-www-form-urlencoded", format!("[{evil}]&model=m")),
        ("application/x-www-form-urlencoded", format!("{evil}{evil}")),
        ("multipart/form-data; boundary=x", format!("{evil}\r\n{part}")),
    ];
    for (index, (kind, body)) in forms.into_iter().enumerate() {
        for path in ["/v1/messages", "/v1/images/generations", "/v1/fim/completions"] {
            let call = Call::new("POST", path).header("x-case", "form").header("content-type", kind).body(body.clone());
            marg.send(call).await.assert_error(400, "invalid_request");
            assert!(upstream.seen("form").is_empty(), "{index} at {path}");
        }
    }
}
