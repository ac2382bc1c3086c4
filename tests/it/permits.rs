//! Permits on paper: whoever gets one can verify it alone, nobody gets one unasked, and none is taken for another.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::client::{Answer, Call, Client};
use crate::support::marg::{Marg, Setup};
use crate::support::reply::Reply;
use crate::support::until;
use crate::support::upstream::{Seen, Upstream};

const HEADER: &str = "x-marg-permit";
const JWKS: &str = "/.well-known/jwks.json";

fn chat(more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Say hello."}]});
    crate::support::marg::merge(&mut body, more);
    body
}

fn permits(setup: Setup, more: Value) -> Setup {
    setup.set("kavach", json!({"permits": more}))
}

/// A gate that permits everything.
fn gate(setup: Setup, mode: &str) -> Setup {
    let file = setup.path("policy.cedar");
    std::fs::write(&file, "// begin\n@id(\"all\") permit(principal, action, resource);\n// end\n").unwrap();
    setup.set("kavach", json!({"mode": mode, "policy": file}))
}

/// The public keys as anybody gets them.
async fn public_keys(marg: &Marg) -> Answer {
    let mut client = Client::http1(marg.address, "").await;
    client.open(Call::new("GET", JWKS).without_key()).await.finish_unchecked().await
}

/// What the command line says of a permit, with the keys as they are published now; its exit code and its document.
async fn verify(marg: &Marg, token: &str, body: Option<&[u8]>, more: &[&str]) -> (i32, Value) {
    let keys = marg.path("jwks.json");
    std::fs::write(&keys, public_keys(marg).await.body).unwrap();
    let file = marg.path("body");
    let mut line = vec!["permit", "verify", token, "--jwks", keys.to_str().unwrap(), "--output", "json"];
    if let Some(body) = body {
        std::fs::write(&file, body).unwrap();
        line.extend(["--body", file.to_str().unwrap()]);
    }
    let (code, output, errors) = marg.try_command(&[&line, more].concat()).await;
    let document = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{code}: {output}{errors}"));
    (code, document)
}

/// What the permit of a request says, once it is verified with its body.
async fn said(marg: &Marg, seen: &Seen, audience: &str) -> Value {
    assert!(seen.whole);
    let token = seen.header(HEADER).unwrap_or_else(|| panic!("no permit came: {:?}", seen.headers));
    let (code, claims) = verify(marg, token, Some(&seen.body), &["--audience", audience]).await;
    assert_eq!(code, 0, "{claims}");
    claims
}

async fn reload(marg: &Marg, kavach: Value) -> Answer {
    let mut config = marg.config.clone();
    crate::support::marg::merge(&mut config["kavach"], kavach);
    marg.rewrite(&config);
    marg.ask_admin("POST", "/admin/reload", None).await
}

#[tokio::test]
async fn nobody_gets_a_permit_unless_the_operator_says_so() {
    let upstream = Upstream::http1().await;
    let marg = gate(Setup::with_default(&upstream), "enforce").start().await;
    let call = Call::chat("off", &chat(json!({}))).header(HEADER, "forged");
    let answer = marg.send(call).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.headers.contains_key(HEADER));
    assert_eq!(upstream.only("off").await.header(HEADER), None, "what the caller made up went through");
    assert_eq!(public_keys(&marg).await.json(), json!({"keys": []}));
    assert_eq!(marg.record(&answer.id()).await["attempts"][0].get("permit"), None);
    let made: Vec<_> = std::fs::read_dir(marg.path("data")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!made.iter().any(|name| name.to_string_lossy().starts_with("permit")), "{made:?}");
}

#[tokio::test]
async fn a_provider_gets_a_permit_for_the_very_bytes_that_it_gets() {
    let upstream = Upstream::http1().await;
    let setup = Setup::new().provider("main", &upstream, json!({})).route(json!({"to": "main:real-model"}));
    let marg = permits(gate(setup, "enforce"), json!({"send_to": "upstream"})).start().await;
    let answer = marg.send(Call::chat("sent", &chat(json!({}))).header(HEADER, "forged")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.headers.contains_key(HEADER), "the caller was given a permit");
    let seen = upstream.only("sent").await;
    let claims = said(&marg, &seen, "main").await;
    assert_eq!(claims["exchange"], answer.id().as_str());
    assert_eq!(claims["jti"], format!("{}-0", answer.id()));
    assert_eq!((&claims["sub"], &claims["provider"]), (&json!(marg.key_id), &json!("main")));
    assert_eq!(
        (&claims["model"], &claims["action"], &claims["gate"]),
        (&json!("real-model"), &json!("chat"), &json!("enforce"))
    );
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
    let record = marg.record(&answer.id()).await;
    assert_eq!(record["attempts"][0]["permit"], claims["jti"]);
    assert!(seen.header(HEADER).unwrap().len() < 4_096);
    let key = marg.path("data/permit.key");
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn every_kind_of_body_is_hashed_as_it_is_sent() {
    let upstream = Upstream::http1().await;
    let marg = permits(Setup::with_default(&upstream), json!({"send_to": "upstream"})).start().await;
    let large = chat(json!({"messages": [{"role": "user", "content": "x".repeat(300_000)}]}));
    let form = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b\r\n\
                content-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\x01\x02\r\n--b--\r\n";
    let multipart = Call::new("POST", "/v1/audio/transcriptions").header("x-case", "form");
    for (case, call) in [
        ("chunked", Call::chat("chunked", &chat(json!({}))).without_length()),
        ("large", Call::chat("large", &large)),
        ("large chunked", Call::chat("large chunked", &large).without_length()),
        ("streamed", Call::chat("streamed", &chat(json!({"stream": true})))),
        ("form", multipart.header("content-type", "multipart/form-data; boundary=b").body(form)),
        ("other", Call::post("/v1/threads", "other", "{}")),
        ("none", Call::new("GET", "/v1/threads/1").header("x-case", "none")),
    ] {
        let answer = marg.send(call).await;
        assert!(answer.status < 500, "{case}: {}", answer.text());
        let claims = said(&marg, &upstream.only(case).await, "main").await;
        assert_eq!(claims["exchange"], answer.id().as_str(), "{case}");
        assert_eq!(claims["gate"], "off", "{case}");
    }
}

#[tokio::test]
async fn a_caller_gets_a_permit_of_its_own_plain_and_streamed() {
    let upstream = Upstream::http1().await;
    let setup = permits(Setup::with_default(&upstream), json!({"send_to": "caller", "caller_audience": "billing"}));
    let marg = setup.start().await;
    for (case, body) in [("plain", chat(json!({}))), ("stream", chat(json!({"stream": true})))] {
        let answer = marg.chat(case, &body).await;
        let seen = upstream.only(case).await;
        assert_eq!(seen.header(HEADER), None, "{case}: the provider was given a permit");
        let token = answer.header(HEADER);
        let (code, claims) = verify(&marg, token, Some(&seen.body), &["--audience", "billing"]).await;
        assert_eq!(code, 0, "{case}: {claims}");
        assert_eq!(claims["jti"], format!("{}-0-caller", answer.id()), "{case}");
        let (code, refusal) = verify(&marg, token, None, &["--audience", "main"]).await;
        assert_eq!((code, &refusal["reason"]), (1, &json!("audience")), "{case}");
    }
}

#[tokio::test]
async fn neither_side_can_put_a_permit_in_the_mouth_of_the_gateway() {
    let upstream = Upstream::http1().await;
    let marg = permits(Setup::with_default(&upstream), json!({"send_to": "both", "header": "X-Permit"})).start().await;
    let forging =
        Reply::json(200, &json!({"id": "1", "choices": []})).header("x-permit", "forged").header(HEADER, "forged");
    upstream.answer("both", forging.clone());
    let answer =
        marg.send(Call::chat("both", &chat(json!({}))).header("x-permit", "forged").header("X-PERMIT", "too")).await;
    let seen = upstream.only("both").await;
    let at_provider: Vec<&String> =
        seen.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-permit")).map(|(_, value)| value).collect();
    let at_caller: Vec<_> = answer.headers.get_all("x-permit").iter().collect();
    assert_eq!((at_provider.len(), at_caller.len(), answer.headers.contains_key(HEADER)), (1, 1, false));
    let caller = at_caller[0].to_str().unwrap();
    assert_ne!(at_provider[0], caller);
    assert_eq!(verify(&marg, at_provider[0], Some(&seen.body), &["--audience", "main"]).await.0, 0);
    assert_eq!(verify(&marg, caller, Some(&seen.body), &["--audience", "caller"]).await.0, 0);

    assert_eq!(reload(&marg, json!({"permits": {"send_to": "upstream"}})).await.status, 200);
    upstream.answer("upstream", forging);
    let answer = marg.chat("upstream", &chat(json!({}))).await;
    assert!(!answer.headers.contains_key("x-permit") && !answer.headers.contains_key(HEADER), "{:?}", answer.headers);
}

#[tokio::test]
async fn every_attempt_has_a_permit_of_its_own() {
    let (first, second) = (Upstream::http1().await, Upstream::http1().await);
    first.answer("retried", Reply::error(429).header("retry-after", "30"));
    let two = json!({"credentials": ["plain:sk-upstream-a", "plain:sk-upstream-b"]});
    let setup = Setup::new().provider("first", &first, two).provider("second", &second, json!({}));
    let setup = setup.route(json!({"to": "first", "fallback": ["second:other"]}));
    let marg = permits(setup, json!({"send_to": "both"})).start().await;
    let answer = marg.chat("retried", &chat(json!({}))).await;
    assert_eq!((answer.status, answer.header("x-marg-provider")), (200, "second"), "{}", answer.text());
    let mut ids = Vec::new();
    for (seen, audience) in first
        .wait_for("retried", 2)
        .await
        .iter()
        .map(|seen| (seen, "first"))
        .chain([(&second.only("retried").await, "second")])
    {
        let claims = said(&marg, seen, audience).await;
        assert_eq!(claims["model"], if audience == "first" { "m" } else { "other" });
        ids.push(claims["jti"].clone());
    }
    let expected: Vec<Value> = (0..3).map(|number| json!(format!("{}-{number}", answer.id()))).collect();
    assert_eq!(ids, expected);
    let record = marg.record(&answer.id()).await;
    let recorded: Vec<Value> =
        record["attempts"].as_array().unwrap().iter().map(|attempt| attempt["permit"].clone()).collect();
    assert_eq!(recorded, expected, "{record}");
    let (_, claims) = verify(&marg, answer.header(HEADER), None, &["--audience", "caller"]).await;
    assert_eq!((&claims["provider"], &claims["model"]), (&json!("second"), &json!("other")), "{claims}");
}

#[tokio::test]
async fn two_algorithms_sign_one_permit_that_also_travels_over_http2() {
    let upstream = Upstream::http2().await;
    let setup = Setup::new().provider("main", &upstream, json!({"http": "2"})).set("default_provider", json!("main"));
    let setup = setup.set("server", json!({"h2c": true}));
    let both = json!({"send_to": "both", "algorithms": ["ed25519", "ml-dsa-65"]});
    let marg = permits(setup, both).start().await;
    let answer = marg.http2().await.send(Call::chat("hybrid", &chat(json!({})))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = upstream.only("hybrid").await;
    let token = seen.header(HEADER).unwrap();
    let strict = ["--audience", "main", "--algorithm", "ml-dsa-65", "--algorithm", "ed25519"];
    let (code, claims) = verify(&marg, token, Some(&seen.body), &strict).await;
    assert_eq!((code, claims["signed_by"].as_array().map(Vec::len)), (0, Some(2)), "{claims}");
    assert_eq!(verify(&marg, answer.header(HEADER), None, &["--audience", "caller"]).await.0, 0);
    let parts: Value = serde_json::from_str(token).unwrap();
    let part = |at: usize, name: &str| parts["signatures"][at][name].as_str().unwrap().to_owned();
    let stripped = format!("{}.{}.{}", part(0, "protected"), parts["payload"].as_str().unwrap(), part(0, "signature"));
    assert_eq!(verify(&marg, &stripped, None, &["--audience", "main"]).await.0, 0);
    let (code, refusal) = verify(&marg, &stripped, None, &strict).await;
    assert_eq!((code, &refusal["reason"]), (1, &json!("algorithm_missing")));
}

#[tokio::test]
async fn settings_have_an_effect_at_a_reload_and_bad_ones_none() {
    let upstream = Upstream::http1().await;
    let marg = permits(Setup::with_default(&upstream), json!({"send_to": "upstream", "ttl_ms": 30_000})).start().await;
    let ttl = |claims: &Value| claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    marg.chat("first", &chat(json!({}))).await;
    assert_eq!(ttl(&said(&marg, &upstream.only("first").await, "main").await), 30);
    for (bad, path) in [
        (json!({"send_to": "everybody"}), "kavach.permits.send_to"),
        (json!({"ttl_ms": 10}), "kavach.permits.ttl_ms"),
        (json!({"ttl_ms": 86_400_001}), "kavach.permits.ttl_ms"),
        (json!({"header": "authorization"}), "kavach.permits.header"),
        (json!({"header": "x-marg-exchange"}), "kavach.permits.header"),
        (json!({"header": "a b"}), "kavach.permits.header"),
        (json!({"audience": ""}), "kavach.permits.audience"),
        (json!({"algorithms": []}), "kavach.permits.algorithms"),
        (json!({"algorithms": ["ed25519", "ed25519"]}), "kavach.permits.algorithms"),
        (json!({"algorithms": ["none"]}), "kavach.permits.algorithms[0]"),
        (json!({"key": "plain:nothing"}), "kavach.permits.key"),
        (json!({"key": "env:NOT_SET"}), "kavach.permits.key"),
        (json!({"extra_keys": "/nowhere.json"}), "kavach.permits.extra_keys"),
        (json!({"audiences": {}}), "kavach.permits.audiences"),
    ] {
        let answer = reload(&marg, json!({"permits": bad})).await;
        assert_eq!(answer.status, 409, "{bad}: {}", answer.text());
        let problem = &answer.json()["error"]["problems"][0];
        assert_eq!(problem["path"], path, "{bad}: {problem}");
        assert!(problem["line"].as_u64() > Some(1) && problem["column"].as_u64() > Some(0), "{problem}");
        assert!(!problem["text"].as_str().unwrap().contains("nothing"), "{problem}");
    }
    marg.chat("kept", &chat(json!({}))).await;
    assert_eq!(ttl(&said(&marg, &upstream.only("kept").await, "main").await), 30);
    let answer = reload(&marg, json!({"permits": {"ttl_ms": 61_000, "audience": "https://inference.internal"}})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    marg.chat("changed", &chat(json!({}))).await;
    assert_eq!(ttl(&said(&marg, &upstream.only("changed").await, "https://inference.internal").await), 61);
}

#[tokio::test]
async fn the_keys_are_published_on_both_ports_to_everybody() {
    let upstream = Upstream::http1().await;
    let marg = permits(Setup::with_default(&upstream), json!({"send_to": "upstream"})).start().await;
    let keys = public_keys(&marg).await;
    assert_eq!((keys.status, keys.header("content-type")), (200, "application/jwk-set+json"));
    assert_eq!(keys.header("cache-control"), "public, max-age=300");
    let document = keys.json();
    let members: Vec<&str> = document["keys"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["kty", "crv", "alg", "use", "kid", "x"]);
    let mut client = Client::http1(marg.admin, "").await;
    let admin = client.open(Call::new("GET", JWKS).without_key()).await.finish_unchecked().await;
    assert_eq!((admin.status, admin.header("content-type")), (200, "application/jwk-set+json"));
    assert_eq!((admin.json(), admin.header("cache-control")), (document, "no-store"));

    upstream.answer("fetched", Reply::error(503));
    marg.chat("fetched", &chat(json!({}))).await;
    let seen = upstream.only("fetched").await;
    for url in [format!("http://{}", marg.address), format!("http://{}{JWKS}", marg.admin)] {
        let line = ["permit", "verify", seen.header(HEADER).unwrap(), "--url", &url, "--audience", "main"];
        assert_eq!(marg.try_command(&line).await.0, 0, "{url}");
    }
    let line = ["permit", "verify", seen.header(HEADER).unwrap(), "--url", "http://127.0.0.1:9", "--any-audience"];
    assert_eq!(marg.try_command(&line).await.0, 5);
}

#[tokio::test]
async fn a_rotated_key_stays_published_and_what_it_signed_stays_good() {
    let upstream = Upstream::http1().await;
    let mut marg = permits(Setup::with_default(&upstream), json!({"send_to": "upstream"})).start().await;
    let ids = async |marg: &Marg| {
        let keys = public_keys(marg).await.json();
        keys["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    marg.chat("old", &chat(json!({}))).await;
    let old = upstream.only("old").await;
    let first = ids(&marg).await;
    let shown = marg.command(&["permit", "key", "rotate"]).await;
    assert_eq!(ids(&marg).await, first, "a key is in force before the reload");
    let answer = reload(&marg, json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let second = ids(&marg).await;
    assert_eq!(second, [shown["keys"][0]["kid"].as_str().unwrap().to_owned(), first[0].clone()]);
    marg.chat("new", &chat(json!({}))).await;
    let new = upstream.only("new").await;
    said(&marg, &old, "main").await;
    let claims = said(&marg, &new, "main").await;
    assert_eq!(claims["signed_by"], json!([format!("ed25519 {}", second[0])]));
    marg.kill9();
    marg.restart().await;
    assert_eq!(ids(&marg).await, second);
    said(&marg, &old, "main").await;
    // Once nobody gets permits, nothing signs; what is out stays good.
    assert_eq!(reload(&marg, json!({"permits": {"send_to": "none"}})).await.status, 200);
    said(&marg, &new, "main").await;
    until("every change of the keys is in the audit log", || async {
        let audit = marg.ask_admin("GET", "/admin/audit/entries?kind=permit", None).await.json();
        let entries = audit["entries"].as_array()?;
        let actors: Vec<&Value> = entries.iter().map(|entry| &entry["entry"]["actor"]["kind"]).collect();
        // Both starts are the gateway's own doing; both reloads were asked for with a token.
        let by = |kind: &str| actors.iter().filter(|actor| **actor == kind).count();
        ((by("system"), by("admin_token")) == (2, 2)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_of_a_secret_is_shared_and_the_next_one_is_published_ahead() {
    let upstream = Upstream::http1().await;
    let setup = Setup::with_default(&upstream);
    let (file, next, extra) = (setup.path("shared.key"), setup.path("next.key"), setup.path("extra.json"));
    let run = |line: &[&str]| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_marg")).args(line).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    let made: Value =
        serde_json::from_slice(&run(&["permit", "key", "create", "--file", file.to_str().unwrap()])).unwrap();
    std::fs::write(&extra, run(&["permit", "key", "create", "--file", next.to_str().unwrap()])).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let setup = permits(setup, json!({"send_to": "upstream", "key": "env:PERMIT_KEY", "extra_keys": extra}));
    let marg = setup.variable("PERMIT_KEY", &text).start().await;
    marg.chat("shared", &chat(json!({}))).await;
    said(&marg, &upstream.only("shared").await, "main").await;
    let published = public_keys(&marg).await.json();
    assert_eq!(published["keys"][0], made["keys"][0]);
    assert_eq!(published["keys"].as_array().unwrap().len(), 3);
    assert!(!marg.path("data/permit.key").exists());
    let (code, _, errors) = marg.try_command(&["permit", "key", "rotate"]).await;
    assert!(code == 6 && errors.contains("env:PERMIT_KEY"), "{errors}");
    let seed = serde_json::from_str::<Value>(&text).unwrap()["seed"].as_str().unwrap().to_owned();
    assert!(!marg.logged().contains(&seed));
}

#[tokio::test]
async fn a_key_that_others_may_read_is_refused() {
    let upstream = Upstream::http1().await;
    let marg = permits(Setup::with_default(&upstream), json!({"send_to": "upstream"})).start().await;
    let key = marg.path("data/permit.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let answer = marg.ask_admin("POST", "/admin/reload", None).await;
    assert_eq!(answer.status, 409);
    assert!(answer.text().contains("0600"), "{}", answer.text());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, "{}").unwrap();
    assert_eq!(marg.ask_admin("POST", "/admin/reload", None).await.status, 409);
    assert_eq!(marg.chat("kept", &chat(json!({}))).await.status, 200);
    said(&marg, &upstream.only("kept").await, "main").await;
}

#[tokio::test]
async fn a_reload_that_names_another_data_folder_signs_with_the_keys_of_the_one_in_use() {
    let upstream = Upstream::http1().await;
    let marg = permits(Setup::with_default(&upstream), json!({"send_to": "upstream"})).start().await;
    let before = public_keys(&marg).await.json();
    let other = marg.path("other");
    std::fs::create_dir(&other).unwrap();
    let mut config = marg.config.clone();
    config["data_dir"] = json!(other);
    marg.rewrite(&config);
    let answer = marg.ask_admin("POST", "/admin/reload", None).await;
    assert_eq!(answer.json()["needs_restart"], json!(["data_dir"]), "{}", answer.text());
    assert_eq!(public_keys(&marg).await.json(), before);
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0);
}
