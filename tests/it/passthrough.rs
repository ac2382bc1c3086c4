//! Bytes in = bytes at the provider, except for the two documented splices (the model's name, `stream_options`); headers and
//! paths as documented; nothing of the caller's identity leaves, nothing of the provider's comes back.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::support::CREDENTIAL;
use crate::support::answers;
use crate::support::client::Call;
use crate::support::marg::{Marg, Setup};
use crate::support::raw::{Raw, assert_refused};
use crate::support::reply::{Answer, Body, End, Reply};
use crate::support::upstream::Upstream;

/// A provider as the default, and a model `renamed` that is asked for as `other/"model"`.
async fn gateway() -> (Upstream, Marg) {
    let upstream = Upstream::http1().await;
    let route = json!({"match": {"model": "renamed"}, "to": "main:other/\"model\""});
    let marg = Setup::with_default(&upstream).route(route).start().await;
    (upstream, marg)
}

#[tokio::test]
async fn bodies_change_only_where_documented() {
    let (upstream, marg) = gateway().await;
    let asks = r#""stream_options":{"include_usage":true}"#;
    let odd = r#" { "future" : [ 1e400, -0.0, 123456789012345678901234567890 ], "messages":[{"role":"user","content":"\u00fc\ud83d\ude00 \/ ü"}],
        "model"	:	"same" , "z":null,"a":{"b":[[]]}} "#;
    for (name, sent, expected) in [
        ("odd spaces, numbers and escapes", odd.to_owned(), odd.to_owned()),
        (
            "the model's name",
            r#"{"messages":[{"role":"user","content":"renamed"}],"model" : "renamed","model_x":"renamed"}"#.to_owned(),
            r#"{"messages":[{"role":"user","content":"renamed"}],"model" : "other/\"model\"","model_x":"renamed"}"#
                .to_owned(),
        ),
        (
            "an escaped model's name",
            r#"{"model":"\u0072enamed","messages":[{"role":"user","content":"x"}]}"#.to_owned(),
            r#"{"model":"other/\"model\"","messages":[{"role":"user","content":"x"}]}"#.to_owned(),
        ),
        (
            "a stream",
            r#"{ "model":"same","stream":true,"messages":[{"role":"user","content":"x"}]}"#.to_owned(),
            format!(r#"{{{asks}, "model":"same","stream":true,"messages":[{{"role":"user","content":"x"}}]}}"#),
        ),
        (
            "a stream with options",
            r#"{"model":"same","stream":true,"messages":[{"role":"user","content":"x"}],"stream_options":{"x":1}}"#
                .to_owned(),
            r#"{"model":"same","stream":true,"messages":[{"role":"user","content":"x"}],"stream_options":{"include_usage":true,"x":1}}"#
                .to_owned(),
        ),
        (
            "a stream with usage",
            format!(r#"{{"model":"same","stream":true,"messages":[{{"role":"user","content":"x"}}], {asks}}}"#),
            format!(r#"{{"model":"same","stream":true,"messages":[{{"role":"user","content":"x"}}], {asks}}}"#),
        ),
    ] {
        let answer = marg.send(Call::post("/v1/chat/completions", name, sent)).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let arrived = upstream.only(name).await;
        assert_eq!(String::from_utf8_lossy(&arrived.body), expected, "{name}");
        assert_eq!(arrived.header("content-length"), Some(expected.len().to_string().as_str()), "{name}");
    }
}

#[tokio::test]
async fn answers_come_back_byte_for_byte() {
    let (upstream, marg) = gateway().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let odd = "{ \"id\" : 1e2,\n\"x\":\"\\u00e4\", \"choices\":[ ] , \"usage\":null } \n";
    upstream.answer("odd", Answer::new(200, "application/json", Body::Whole(odd.into())).into());
    let answer = marg.chat("odd", &body).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, odd));
    assert_eq!(answer.header("content-length"), odd.len().to_string());

    let pieces =
        [": comment\n\n", "event: x\r\ndata: {\"a\":1}\r\n\r\n", "data: {\"b\"", ":2}\n\n", "data: [DONE]\n\n"];
    let pieces: Vec<Bytes> = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
    upstream.answer("events", Answer::event_stream(Body::Pieces(pieces.clone(), End::Clean)).into());
    let streamed = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true});
    let answer = marg.chat("events", &streamed).await;
    assert_eq!(answer.text().as_bytes(), pieces.concat());
}

#[tokio::test]
async fn the_callers_identity_stays_here_and_the_providers_goes_there() {
    let (upstream, marg) = gateway().await;
    let call = Call::chat("identity", &json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}))
        .header("cookie", "session=1")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-real-ip", "203.0.113.9")
        .header("forwarded", "for=203.0.113.9")
        .header("openai-organization", "org-of-the-caller")
        .header("x-api-key", &marg.key)
        .header("api-key", &marg.key)
        .header("x-goog-api-key", &marg.key)
        .header("proxy-authorization", "Basic eA==")
        .header("x-marg-anything", "1")
        .header("user-agent", "an-sdk/1")
        .header("x-stainless-lang", "rust")
        .header("openai-beta", "assistants=v2");
    assert_eq!(marg.send(call).await.status, 200);
    let arrived = upstream.only("identity").await;
    assert_eq!(arrived.header("authorization"), Some(format!("Bearer {CREDENTIAL}main").as_str()));
    assert_eq!(arrived.header("host"), Some(upstream.address.to_string().as_str()));
    for gone in [
        "cookie",
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "openai-organization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "proxy-authorization",
        "x-marg-anything",
    ] {
        assert_eq!(arrived.header(gone), None, "{gone}");
    }
    assert_eq!(arrived.header("user-agent"), Some("an-sdk/1"));
    assert_eq!(arrived.header("x-stainless-lang"), Some("rust"));
    assert_eq!(arrived.header("openai-beta"), Some("assistants=v2"));
    assert_eq!(arrived.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("authorization")).count(), 1);
}

#[tokio::test]
async fn each_way_of_authentication_and_extra_headers_reach_the_provider() {
    let upstream = Upstream::http1().await;
    let mut setup = Setup::new();
    let ways = [
        ("bearer", "authorization"),
        ("api-key", "api-key"),
        ("x-api-key", "x-api-key"),
        ("x-goog-api-key", "x-goog-api-key"),
        ("none", ""),
    ];
    for (way, _) in ways {
        let more =
            json!({"auth": way, "headers": {"x-extra": "bare", "x-secret": "env:EXTRA_HEADER", "user-agent": "set"}});
        setup = setup.provider(way, &upstream, more).route(json!({"match": {"model": way}, "to": way}));
    }
    let marg = setup.variable("EXTRA_HEADER", "from-the-environment").start().await;
    for (way, header) in ways {
        let body = json!({"model": way, "messages": [{"role": "user", "content": "x"}]});
        assert_eq!(marg.chat(way, &body).await.status, 200);
        let arrived = upstream.only(way).await;
        for (_, other) in ways.iter().filter(|(_, other)| !other.is_empty()) {
            let value = arrived.header(other).map(|value| value.trim_start_matches("Bearer ").to_owned());
            let expected = (*other == header).then(|| format!("{CREDENTIAL}{way}"));
            assert_eq!(value, expected, "{way}: {other}");
        }
        assert_eq!(arrived.header("x-extra"), Some("bare"));
        assert_eq!(arrived.header("x-secret"), Some("from-the-environment"));
        assert_eq!(arrived.header("user-agent"), Some("set"));
    }
}

#[tokio::test]
async fn headers_of_one_connection_do_not_cross() {
    let (upstream, marg) = gateway().await;
    let mut raw = Raw::connect(marg.address).await;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-case: hops\r\n\
         connection: keep-alive, x-named\r\nkeep-alive: timeout=5\r\nx-named: 1\r\nte: trailers\r\ntrailer: x-t\r\n\
         upgrade: h2c\r\nproxy-connection: keep-alive\r\ncontent-length: {}\r\n\r\n{body}",
        marg.key,
        body.len()
    );
    assert!(raw.write(head).await);
    upstream.answer(
        "hops",
        Reply::json(200, &answers::completion("m", None))
            .header("set-cookie", "account=1")
            .header("keep-alive", "timeout=1")
            .header("alt-svc", "h3=\":443\"")
            .header("server", "secretive")
            .header("openai-organization", "org-of-the-operator")
            .header("connection", "X-Hop, keep-alive")
            .header("x-hop", "1")
            .header("upgrade", "h2c")
            .header("proxy-authenticate", "Basic")
            .header("x-marg-reason", "theirs")
            .header("x-marg-downgrade", "theirs")
            .header("x-kavach-verdict", "allow")
            .header("x-forwarded-host", "inside")
            .header("x-served-by", "inside")
            .header("x-should-retry", "false")
            .header("openai-processing-ms", "12")
            .header("x-ratelimit-remaining-requests", "99"),
    );
    let answer = raw.answer(crate::support::PATIENCE).await.expect("an answer");
    assert_eq!(answer.status, 200);
    let arrived = upstream.only("hops").await;
    for gone in ["keep-alive", "x-named", "te", "trailer", "upgrade", "proxy-connection"] {
        assert_eq!(arrived.header(gone), None, "{gone} went to the provider");
    }
    for gone in [
        "set-cookie",
        "alt-svc",
        "server",
        "openai-organization",
        "x-hop",
        "upgrade",
        "proxy-authenticate",
        "x-marg-reason",
        "x-marg-downgrade",
        "x-kavach-verdict",
        "x-forwarded-host",
        "x-served-by",
    ] {
        assert_eq!(answer.header(gone), "", "{gone} came back");
    }
    assert_ne!(answer.header("keep-alive"), "timeout=1");
    assert_eq!(answer.header("x-should-retry"), "false", "it is a part of an error, like retry-after");
    assert_eq!(answer.header("openai-processing-ms"), "12");
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), "99");
}

#[tokio::test]
async fn answers_name_the_exchange_and_who_served_it() {
    let (upstream, marg) = gateway().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let reply = Reply::json(200, &answers::completion("m", None)).header("x-request-id", "theirs-1");
    upstream.answer("own", reply.clone());
    let answer = marg.send(Call::chat("own", &body).header("x-request-id", "mine-1")).await;
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert_eq!(answer.header("x-marg-upstream-request-id"), "theirs-1");
    assert_eq!(answer.header("x-marg-provider"), "main");
    assert_eq!(answer.header("x-marg-attempts"), "1");
    assert_eq!(answer.header("x-marg-reason"), "");
    let record = marg.record(&answer.id()).await;
    assert_eq!(record["request_id"], "mine-1");
    assert_eq!(upstream.only("own").await.header("x-request-id"), Some(answer.id().as_str()));

    upstream.answer("insane", reply);
    let answer = marg.send(Call::chat("insane", &body).header("x-request-id", "two words \" and more")).await;
    assert_eq!(answer.header("x-request-id"), answer.id());
}

#[tokio::test]
async fn known_endpoints_are_served_without_v1_as_well() {
    let (upstream, marg) = gateway().await;
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}).to_string();
    let embed = json!({"model": "m", "input": "x"}).to_string();
    for (path, body, there) in [
        ("/chat/completions", &chat, "/v1/chat/completions"),
        ("/v1/chat/completions/", &chat, "/v1/chat/completions"),
        ("/embeddings", &embed, "/v1/embeddings"),
        ("/v1/chat/completions?api-version=2024&x=a%20b", &chat, "/v1/chat/completions?api-version=2024&x=a%20b"),
    ] {
        let answer = marg.send(Call::post(path, path, body.clone())).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(upstream.only(path).await.path, there);
    }
    marg.send(Call::post("/nothing/here", "nothing", chat.clone())).await.assert_error(404, "not_found");
    marg.send(Call::new("PUT", "/v1/chat/completions")).await.assert_error(405, "method_not_allowed");
}

#[tokio::test]
async fn any_other_path_below_v1_passes_through() {
    let (upstream, marg) = gateway().await;
    let binary: Vec<u8> = (0..=255_u8).cycle().take(100_000).collect();
    let form = [
        b"--BOUND\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n".as_slice(),
        b"--BOUND\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n",
        &binary,
        b"\r\n--BOUND--\r\n",
    ]
    .concat();
    let call = Call::new("POST", "/v1/files?x=1").header("x-case", "form");
    let answer = marg.send(call.header("content-type", "multipart/form-data; boundary=BOUND").body(form.clone())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let arrived = upstream.only("form").await;
    assert_eq!(arrived.path, "/v1/files?x=1");
    assert_eq!(arrived.hash(), blake3::hash(&form));
    assert_eq!(arrived.header("content-type"), Some("multipart/form-data; boundary=BOUND"));

    upstream.answer("binary", Answer::new(200, "application/octet-stream", Body::Whole(binary.clone().into())).into());
    let answer = marg.send(Call::new("GET", "/v1/files/file-1/content").header("x-case", "binary")).await;
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(blake3::hash(&answer.body), blake3::hash(&binary));

    upstream.answer("gone", Answer::new(204, "text/plain", Body::Whole(Bytes::new())).into());
    let answer = marg.send(Call::new("DELETE", "/v1/files/file-1").header("x-case", "gone")).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    let arrived = upstream.only("gone").await;
    assert_eq!((arrived.method.as_str(), arrived.path.as_str()), ("DELETE", "/v1/files/file-1"));
    assert_eq!(marg.record(&answer.id()).await["operation"], "passthrough");

    let answer = marg.send(Call::new("HEAD", "/v1/files/file-1").header("x-case", "head")).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(upstream.only("head").await.method, Method::HEAD.as_str());
}

#[tokio::test]
async fn what_a_known_endpoint_keeps_is_read_and_deleted_at_the_provider() {
    let (upstream, marg) = gateway().await;
    for (method, path, there) in [
        ("GET", "/v1/chat/completions?limit=1", "/v1/chat/completions?limit=1"),
        ("GET", "/v1/chat/completions?model=renamed", "/v1/chat/completions?model=other%2F%22model%22"),
        ("DELETE", "/v1/models/ft%3Am", "/v1/models/ft%3Am"),
    ] {
        let answer = marg.send(Call::new(method, path).header("x-case", path)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let arrived = upstream.only(path).await;
        assert_eq!((arrived.method.as_str(), arrived.path.as_str()), (method, there));
        assert_eq!(marg.record(&answer.id()).await["operation"], "passthrough");
    }
    let refused = marg.send(Call::new("POST", "/v1/models/m")).await;
    refused.assert_error(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), "GET, HEAD, DELETE");
}

#[tokio::test]
async fn a_part_of_a_file_is_fetched_and_no_part_of_a_completion() {
    let (upstream, marg) = gateway().await;
    let part = Answer::new(206, "text/plain", Body::Whole(Bytes::from_static(b"abc")));
    upstream.answer("part", Reply::from(part).header("content-range", "bytes 0-2/10"));
    let call = Call::new("GET", "/v1/files/f/content").header("x-case", "part").header("range", "bytes=0-2");
    let answer = marg.send(call.header("if-range", "\"tag\"").header("origin", "https://a.example")).await;
    assert_eq!((answer.status, answer.text().as_str()), (206, "abc"));
    assert_eq!(answer.header("content-range"), "bytes 0-2/10");
    let arrived = upstream.only("part").await;
    assert_eq!((arrived.header("range"), arrived.header("if-range")), (Some("bytes=0-2"), Some("\"tag\"")));
    assert_eq!(arrived.header("origin"), None);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    marg.send(Call::chat("whole", &body).header("range", "bytes=0-2")).await;
    assert_eq!(upstream.only("whole").await.header("range"), None);
}

#[tokio::test]
async fn a_delay_reaches_the_caller_in_whole_seconds_or_not_at_all() {
    let (upstream, marg) = gateway().await;
    for (sent, told) in [("7", "7"), ("1.2", "2"), ("30s", ""), ("-5", ""), ("nan", "")] {
        upstream.answer(sent, Reply::error(503).header("retry-after", sent));
        let call = Call::new("GET", "/v1/files").header("x-case", sent);
        assert_eq!(marg.send(call).await.header("retry-after"), told, "{sent}");
    }
    upstream.answer("past", Reply::error(503).header("retry-after", "Sunday, 06-Nov-94 08:49:37 GMT"));
    let answer = marg.send(Call::new("GET", "/v1/files").header("x-case", "past")).await;
    assert_eq!(answer.header("retry-after"), "0");
}

#[tokio::test]
async fn a_page_of_the_gateway_says_what_it_takes_and_whose_request_it_was() {
    let (_upstream, marg) = gateway().await;
    for path in ["/health", "/ready", "/version"] {
        let refused = marg.send(Call::new("POST", path).without_key()).await;
        refused.assert_error(405, "method_not_allowed");
        assert_eq!(refused.header("allow"), "GET, HEAD", "{path}");
        let answer = marg.send(Call::new("GET", path).without_key().header("x-request-id", "mine-1")).await;
        assert_eq!((answer.status, answer.header("x-request-id")), (200, "mine-1"), "{path}");
    }
}

#[tokio::test]
async fn a_form_is_routed_by_its_model_and_gets_the_targets() {
    let (upstream, marg) = gateway().await;
    let form = |model: &str| {
        format!(
            "--B\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\u{1}\r\n\
             --B\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--B--\r\n"
        )
    };
    let call = Call::new("POST", "/v1/audio/transcriptions").header("x-case", "audio");
    let answer = marg.send(call.header("content-type", "multipart/form-data; boundary=B").body(form("renamed"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(String::from_utf8_lossy(&upstream.only("audio").await.body), form("other/\"model\""));
}

#[tokio::test]
async fn paths_that_try_to_escape_are_refused() {
    let (upstream, marg) = gateway().await;
    for path in [
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/%252e%252e/admin",
        "/v1/files/%2e/x",
        "/v1/files//x",
        "/v1//files",
        "/v1/files%2fx",
        "/v1/files\\x",
        "/v1/files%5cx",
        "/v1/files;x=1",
        "/v1/files/%00",
        "/v1/files/%0d%0ax-injected:1",
        "/v1/files/%zz",
        "/v1/files/%ff",
    ] {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", marg.key);
        let status = assert_refused(marg.address, path, head).await;
        assert!(matches!(status, 400 | 404 | 0), "{path}: {status}");
    }
    assert_eq!(upstream.asked(), 0, "something reached the provider");
}

#[tokio::test]
async fn errors_of_a_provider_come_back_without_its_secrets() {
    let (upstream, marg) = gateway().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let host = upstream.address.to_string();
    let leak = json!({"error": {
        "message": format!("Incorrect API key {CREDENTIAL}main at http://{host}/v1/chat/completions"),
        "type": "invalid_request_error", "param": null, "code": "context_length_exceeded",
    }});
    upstream.answer("leak", Reply::json(400, &leak));
    let answer = marg.chat("leak", &body).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["code"], "context_length_exceeded");

    let page = format!("<html><title>Bad</title><body>{CREDENTIAL}main http://{host}/</body></html>");
    upstream.answer("page", Answer::new(500, "text/html", Body::Whole(page.into())).into());
    let answer = marg.chat("page", &body).await;
    assert_eq!(answer.status, 500);
    crate::support::client::assert_openai_error(&answer.json());
    assert_eq!(answer.header("content-type"), "application/json");

    for (case, status) in [("plain", 422_u16), ("empty", 404), ("binary", 400)] {
        let text = match case {
            "plain" => Bytes::from(format!("{CREDENTIAL}main is wrong for {host}")),
            "empty" => Bytes::new(),
            _ => Bytes::from_static(b"\xff\xfe\x00"),
        };
        upstream.answer(case, Answer::new(status, "text/plain", Body::Whole(text)).into());
        let answer = marg.chat(case, &body).await;
        assert_eq!(answer.status, status, "{case}");
        crate::support::client::assert_openai_error(&answer.json());
    }

    let away = Reply::json(307, &json!({})).header("location", &format!("http://{host}/elsewhere"));
    upstream.answer("away", away);
    let answer = marg.chat("away", &body).await;
    answer.assert_error(502, "upstream_error");
    assert_eq!(answer.header("location"), "");
    assert_eq!(upstream.seen("away").len(), 1, "the redirect was followed");
}

#[tokio::test]
async fn a_provider_that_does_not_speak_http_is_a_502() {
    let (upstream, marg) = gateway().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let many: String = (0..1_000).map(|n| format!("x-{n}: {}\r\n", "v".repeat(50))).collect();
    for (case, bytes) in [
        ("garbage", "\u{1}\u{2}\u{3} not http at all\r\n\r\n".to_owned()),
        ("status", "HTTP/1.1 9999 Odd\r\ncontent-length: 0\r\n\r\n".to_owned()),
        ("half", "HTTP/1.1 200 OK\r\ncontent-le".to_owned()),
        ("headers", format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n")),
        ("long", format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "v".repeat(3_000_000))),
    ] {
        upstream.answer(case, Reply::afterwards(crate::support::reply::What::Raw(bytes.into())));
        let answer = marg.chat(case, &body).await;
        answer.assert_error(502, "upstream_error");
    }
    assert_eq!(marg.chat("afterwards", &body).await.status, 200);
}

#[tokio::test]
async fn the_models_list_says_what_the_key_can_reach() {
    let upstream = Upstream::http1().await;
    let marg = Setup::new()
        .provider("main", &upstream, json!({"models": ["alpha", "beta", "gam*"]}))
        .route(json!({"match": {"model": "alias"}, "to": "main:alpha"}))
        .set("default_provider", json!("main"))
        .start()
        .await;
    let list = marg.send(Call::new("GET", "/v1/models")).await;
    assert_eq!(list.status, 200);
    let names = |list: &serde_json::Value| -> Vec<String> {
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&list.json()), ["alias", "alpha", "beta"]);
    let (token, _) = marg.make_key(&["--model", "al*"]).await;
    let own = Call::new("GET", "/v1/models").without_key().header("authorization", &format!("Bearer {token}"));
    assert_eq!(names(&marg.send(own).await.json()), ["alias", "alpha"]);
    let one = marg.send(Call::new("GET", "/v1/models/alpha")).await;
    assert_eq!((one.status, one.json()["id"].as_str()), (200, Some("alpha")));
    marg.send(Call::new("GET", "/v1/models/unknown")).await.assert_error(404, "model_not_found");
    assert_eq!(upstream.asked(), 0, "the list is Marg's own");
}

#[tokio::test]
async fn an_error_that_breaks_off_is_still_that_error() {
    let (upstream, marg) = gateway().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    for (case, rest) in [
        ("cut", "content-length: 500\r\n\r\n{\"error\":{\"message\":\"it is too lo".to_owned()),
        ("bare", "content-length: 500\r\n\r\n".to_owned()),
        ("chunked", "transfer-encoding: chunked\r\n\r\n1f\r\n{\"error\":{\"message\":\"too long\"}}\r\n".to_owned()),
    ] {
        let raw = format!("HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n{rest}");
        upstream.answer(case, Reply::afterwards(crate::support::reply::What::Raw(raw.into())));
        let answer = marg.chat(case, &body).await;
        assert_eq!(answer.status, 400, "{case}");
        crate::support::client::assert_openai_error(&answer.json());
        assert_eq!(marg.record(&answer.id()).await["outcome"], "upstream_failed", "{case}");
    }
}

#[tokio::test]
async fn a_condition_of_the_caller_is_answered_by_304() {
    let (upstream, marg) = gateway().await;
    let unchanged = Answer::new(304, "application/json", Body::Whole(Bytes::new()));
    let unchanged = Reply::from(unchanged).header("etag", "\"v1\"");
    upstream.answer("same", unchanged.clone());
    let call = Call::new("GET", "/v1/files/file-1").header("x-case", "same").header("if-none-match", "\"v1\"");
    let answer = marg.send(call).await;
    assert_eq!((answer.status, answer.body.len(), answer.header("etag")), (304, 0, "\"v1\""));
    assert_eq!(marg.record(&answer.id()).await["outcome"], "answered");
    assert_eq!(upstream.only("same").await.header("if-none-match"), Some("\"v1\""));
    // Nobody asked on a condition: that is no answer.
    upstream.answer("odd", unchanged);
    let answer = marg.send(Call::new("GET", "/v1/files/file-1").header("x-case", "odd")).await;
    answer.assert_error(502, "upstream_error");
}

#[tokio::test]
async fn what_a_provider_compresses_unasked_is_unpacked() {
    let (upstream, marg) = gateway().await;
    let pack = |text: &[u8]| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packer, text).unwrap();
        Bytes::from(packer.finish().unwrap())
    };
    let stream = [
        answers::text("m", "Hello"),
        answers::usage_chunk("m", answers::usage(9, 3)),
        Bytes::from_static(b"data: [DONE]\n\n"),
    ];
    let pieces = pack(&stream.concat()).chunks(20).map(Bytes::copy_from_slice).collect();
    let reply = Answer::event_stream(Body::Pieces(pieces, crate::support::reply::End::Clean));
    upstream.answer("stream", Reply::from(reply).header("content-encoding", "gzip"));
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true});
    let answer = marg.chat("stream", &body).await;
    assert_eq!((answers::said(&answer.body).as_str(), answer.header("content-encoding")), ("Hello", ""));
    assert!(!answer.text().contains("usage"), "{}", answer.text());
    assert_eq!(marg.record(&answer.id()).await["usage"]["output"], 3);

    body["stream"] = json!(false);
    let error =
        json!({"error": {"message": "too long", "type": "t", "param": null, "code": "context_length_exceeded"}});
    let reply = Answer::new(400, "application/json", Body::Whole(pack(error.to_string().as_bytes())));
    upstream.answer("error", Reply::from(reply).header("content-encoding", "gzip"));
    let answer = marg.chat("error", &body).await;
    assert_eq!((answer.status, answer.json()), (400, error));

    let reply = Answer::new(200, "application/json", Body::Whole(Bytes::from_static(b"this was never compressed")));
    upstream.answer("corrupt", Reply::from(reply).header("content-encoding", "gzip"));
    let mut client = marg.http1().await;
    let opened = client.open(Call::chat("corrupt", &body)).await;
    let (status, id) = (opened.status, opened.id());
    // Where the head was on its way already, the connection breaks instead.
    if opened.try_finish().await.is_ok() {
        assert_eq!(status, 502);
    }
    assert_ne!(marg.record(&id).await["outcome"], "answered");

    // One that lacks its end has broken off, although its framing is whole.
    let whole = pack(answers::completion("m", Some(answers::usage(9, 3))).to_string().as_bytes());
    for length in [whole.len() / 2, whole.len() - 1] {
        let reply = Answer::new(200, "application/json", Body::Whole(whole.slice(..length)));
        upstream.answer("torn", Reply::from(reply).header("content-encoding", "gzip"));
        let opened = marg.http1().await.open(Call::chat("torn", &body)).await;
        let (status, id) = (opened.status, opened.id());
        if opened.try_finish().await.is_ok() {
            assert_eq!(status, 502);
        }
        assert_ne!(marg.record(&id).await["outcome"], "answered");
    }
}
