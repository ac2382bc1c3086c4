//! The gate: what the policies do not permit never reaches a provider, and a mistake never opens the door.

use serde_json::{Value, json};

use crate::support::client::{Answer, Call};
use crate::support::marg::{Marg, Setup};
use crate::support::until;
use crate::support::upstream::Upstream;

pub const EVERYONE: &str = "@id(\"everyone\") permit(principal, action in Action::\"call\", resource);\n";
pub const CAP: &str = "@id(\"cap\") @reason(\"answers are short here\") \
                   forbid(principal, action, resource) when { context.max_output_tokens > 100 };\n";

/// A gateway with a gate, whose policies are in `policy.cedar`.
pub async fn gateway(upstream: &Upstream, mode: &str, policies: &str) -> Marg {
    setup(Setup::with_default(upstream), mode, policies).start().await
}

fn setup(setup: Setup, mode: &str, policies: &str) -> Setup {
    let file = setup.path("policy.cedar");
    std::fs::write(&file, framed(policies)).unwrap();
    setup.set("kavach", json!({"mode": mode, "policy": file}))
}

fn framed(policies: &str) -> String {
    format!("// begin\n{policies}// end\n")
}

/// A chat with more members.
pub fn chat(more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Say hello."}]});
    crate::support::marg::merge(&mut body, more);
    body
}

pub fn verdict(answer: &Answer) -> (&str, &str) {
    (answer.header("x-kavach-mode"), answer.header("x-kavach-verdict"))
}

/// Whether a reload was applied.
async fn reload(marg: &Marg) -> bool {
    match marg.ask_admin("POST", "/admin/reload", None).await.status {
        200 => true,
        409 => false,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_no_policy_permits_is_refused_before_a_provider_is_asked() {
    let upstream = Upstream::http1().await;
    let only = "@id(\"only\") permit(principal, action == Action::\"embeddings\", resource);\n";
    let marg = gateway(&upstream, "enforce", only).await;
    let refused = marg.chat("denied", &chat(json!({}))).await;
    refused.assert_error(403, "permission_denied");
    assert!(refused.text().contains("nothing permits it"), "{}", refused.text());
    assert_eq!(verdict(&refused), ("enforce", "deny"));
    assert_eq!(upstream.seen("denied").len(), 0, "the provider was asked");
    let record = marg.record(&refused.id()).await;
    assert_eq!(record["outcome"], "refused");
    assert_eq!(record["verdict"]["verdict"], "deny", "{record}");
}

#[tokio::test]
async fn a_cap_on_output_is_not_evaded_by_any_way_of_writing_it() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "enforce", &format!("{EVERYONE}{CAP}")).await;
    let evasions = [
        json!({}),
        json!({"max_tokens": null}),
        json!({"max_completion_tokens": null, "max_tokens": null}),
        json!({"max_tokens": 101}),
        json!({"max_completion_tokens": 101}),
        json!({"max_tokens": 10, "max_completion_tokens": 5_000}),
        json!({"max_tokens": 5_000, "max_completion_tokens": 10}),
        json!({"max_tokens": 60, "n": 2}),
        json!({"max_tokens": 1, "n": 128}),
        json!({"max_tokens": u64::MAX}),
        json!({"max_tokens": u64::MAX, "n": 2}),
    ];
    for (index, more) in evasions.iter().enumerate() {
        let case = format!("evasion {index}");
        let refused = marg.chat(&case, &chat(more.clone())).await;
        assert_eq!(refused.status, 403, "{more}: {}", refused.text());
        assert!(refused.text().contains("answers are short here (policy cap)"), "{}", refused.text());
        assert_eq!(upstream.seen(&case).len(), 0, "{more}: the provider was asked");
    }
    // What is no number at all, or stands there twice, is no request.
    let twice = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":10,"max_tokens":9999}"#;
    for body in
        [twice.to_owned(), chat(json!({"max_tokens": -1})).to_string(), chat(json!({"max_tokens": "10"})).to_string()]
    {
        let refused = marg.send(Call::post("/v1/chat/completions", "odd", body)).await;
        assert_eq!(refused.status, 400, "{}", refused.text());
    }
    let passed = marg.chat("short", &chat(json!({"max_tokens": 50, "n": 2}))).await;
    assert_eq!((passed.status, verdict(&passed)), (200, ("enforce", "allow")), "{}", passed.text());
}

#[tokio::test]
async fn a_ceiling_that_the_gateway_imposes_is_the_one_that_is_judged() {
    let upstream = Upstream::http1().await;
    let setup = setup(Setup::with_default(&upstream), "enforce", &format!("{EVERYONE}{CAP}"));
    let marg = setup.set("budget", json!({"default_caps": {"max_output_tokens": 100}})).start().await;
    let passed = marg.chat("capped", &chat(json!({}))).await;
    assert_eq!((passed.status, verdict(&passed)), (200, ("enforce", "allow")), "{}", passed.text());
}

#[tokio::test]
async fn observing_lets_pass_and_writes_down_what_would_have_been() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "observe", &format!("{EVERYONE}{CAP}")).await;
    let passed = marg.chat("watched", &chat(json!({}))).await;
    assert_eq!((passed.status, verdict(&passed)), (200, ("observe", "would-deny")), "{}", passed.text());
    let record = marg.record(&passed.id()).await;
    assert_eq!(
        (record["verdict"]["mode"].as_str(), record["verdict"]["real"].as_str()),
        (Some("observe"), Some("deny"))
    );
    assert_eq!(record["verdict"]["deciding"], json!([{"policy": "cap", "reason": "answers are short here"}]));
}

#[tokio::test]
async fn a_gate_that_is_off_says_nothing() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let passed = marg.chat("plain", &chat(json!({}))).await;
    assert_eq!(passed.status, 200);
    assert!(!passed.headers.keys().any(|name| name.as_str().starts_with("x-kavach")), "{:?}", passed.headers);
    assert_eq!(marg.record(&passed.id()).await["verdict"], Value::Null);
}

#[tokio::test]
async fn a_target_that_is_refused_is_left_out_of_the_plan() {
    let (dear, cheap) = (Upstream::http1().await, Upstream::http1().await);
    let no = "@id(\"no-dear\") forbid(principal, action, resource in Provider::\"dear\");\n";
    let setup = Setup::new().provider("dear", &dear, json!({})).provider("cheap", &cheap, json!({}));
    let setup = setup.route(json!({"to": "dear", "fallback": ["cheap"]}));
    let marg = self::setup(setup, "enforce", &format!("{EVERYONE}{no}")).start().await;
    let passed = marg.chat("second choice", &chat(json!({}))).await;
    assert_eq!((passed.status, passed.header("x-marg-provider")), (200, "cheap"), "{}", passed.text());
    assert_eq!((dear.seen("second choice").len(), cheap.seen("second choice").len()), (0, 1));
    assert_eq!(marg.record(&passed.id()).await["verdict"]["dropped"], 1);
}

#[tokio::test]
async fn calls_are_judged_by_where_the_provider_works() {
    let upstream = Upstream::http1().await;
    let no = "@id(\"eu\") forbid(principal, action, resource) unless { resource.region == \"eu\" };\n";
    let policies = format!("{EVERYONE}{no}");
    let nowhere = gateway(&upstream, "enforce", &policies).await;
    nowhere.chat("nowhere", &chat(json!({}))).await.assert_error(403, "permission_denied");
    let here = Setup::new().provider("main", &upstream, json!({"region": "eu"})).set("default_provider", json!("main"));
    let here = setup(here, "enforce", &policies).start().await;
    assert_eq!(here.chat("here", &chat(json!({}))).await.status, 200);
}

#[tokio::test]
async fn messages_are_an_action_of_their_own() {
    let upstream = Upstream::http1().await;
    let no = "@id(\"no-messages\") forbid(principal, action == Action::\"messages\", resource);\n";
    let marg = gateway(&upstream, "enforce", &format!("{EVERYONE}{no}")).await;
    let call = |path: &str| Call::new("POST", path).header("content-type", "application/json").body(r#"{"model":"m"}"#);
    marg.send(call("/v1/messages")).await.assert_error(403, "permission_denied");
    for path in ["/v1/Messages", "/v1/messages/", "/v1/%6Dessages"] {
        marg.send(call(path)).await.assert_error(400, "invalid_request");
    }
    assert_eq!(marg.send(call("/v1/message_lists")).await.status, 200);
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn tools_are_judged_by_every_name_that_they_have() {
    let upstream = Upstream::http1().await;
    let no = "@id(\"no-shell\") forbid(principal, action, resource) when { context.tools.contains(\"shell\") };\n";
    let marg = gateway(&upstream, "enforce", &format!("{EVERYONE}{no}")).await;
    for (tool, status) in [
        (json!({"type": "function", "function": {"name": "weather"}}), 200),
        (json!({"type": "function", "function": {"name": "shell"}}), 403),
        (json!({"type": "custom", "custom": {"name": "shell"}}), 403),
    ] {
        let answer = marg.chat("tools", &chat(json!({"tools": [tool]}))).await;
        assert_eq!(answer.status, status, "{tool}: {}", answer.text());
    }
    let escaped = r#"{"model":"m","messages":[{"role":"user","content":"x"}],
        "t\u006fols":[{"type":"function","function":{"name":"sh\u0065ll"}}]}"#;
    let answer = marg.send(Call::post("/v1/chat/completions", "escaped", escaped)).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
}

#[tokio::test]
async fn a_policy_file_that_is_broken_in_any_way_never_widens_access() {
    let upstream = Upstream::http1().await;
    let good = framed(&format!("{EVERYONE}{CAP}"));
    let marg = gateway(&upstream, "enforce", &format!("{EVERYONE}{CAP}")).await;
    let file = marg.path("policy.cedar");
    let load = async {
        let mut client = marg.http1().await;
        for number in 0..200 {
            let long = client.send(Call::chat(&format!("load {number}"), &chat(json!({})))).await;
            assert_eq!(long.status, 403, "{}", long.text());
            let short = client.send(Call::chat(&format!("load {number}"), &chat(json!({"max_tokens": 5})))).await;
            assert_eq!(short.status, 200, "{}", short.text());
        }
    };
    let mistakes = async {
        let broken = [
            "",
            "// begin\n",
            "permit(principal, action, resource)",
            "@mode(\"never\") permit(principal, action, resource);",
        ];
        let deep = format!(
            "{good}forbid(principal, action, resource) when {{ {}true{} }};",
            "(".repeat(9_000),
            ")".repeat(9_000)
        );
        let cut = (1..good.len()).step_by(23).filter_map(|end| good.get(..end));
        for text in broken.into_iter().chain([deep.as_str()]).chain(cut) {
            std::fs::write(&file, text).unwrap();
            assert!(!reload(&marg).await, "{text:?} is taken");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(!reload(&marg).await);
        std::fs::write(&file, &good).unwrap();
        assert!(reload(&marg).await);
    };
    tokio::join!(load, mistakes);
}

#[tokio::test]
async fn a_start_with_a_broken_policy_file_is_refused() {
    let upstream = Upstream::http1().await;
    let mut marg = gateway(&upstream, "enforce", EVERYONE).await;
    marg.kill9();
    std::fs::write(marg.path("policy.cedar"), "permit(").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_marg"))
        .args(["--config", marg.path("marg.yaml").to_str().unwrap(), "start"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("policy.cedar"), "{text}");
}

#[tokio::test]
async fn a_switch_of_the_mode_takes_effect_at_a_reload() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "observe", &format!("{EVERYONE}{CAP}")).await;
    assert_eq!(marg.chat("before", &chat(json!({}))).await.status, 200);
    let mut config = marg.config.clone();
    config["kavach"]["mode"] = json!("enforced");
    marg.rewrite(&config);
    assert!(!reload(&marg).await);
    assert_eq!(verdict(&marg.chat("between", &chat(json!({}))).await), ("observe", "would-deny"));
    config["kavach"]["mode"] = json!("enforce");
    marg.rewrite(&config);
    assert!(reload(&marg).await);
    let refused = marg.chat("after", &chat(json!({}))).await;
    assert_eq!((refused.status, verdict(&refused)), (403, ("enforce", "deny")));
    until("the log tells of the switch", || async { marg.logged().contains("the gate changed").then_some(()) }).await;
}

#[tokio::test]
async fn a_refused_caller_reads_no_more_than_the_operator_allows() {
    let upstream = Upstream::http1().await;
    for (reveal, says, hides) in [("reason", "answers are short here", "cap)"), ("nothing", "policy refuses", "short")]
    {
        let setup = setup(Setup::with_default(&upstream), "enforce", &format!("{EVERYONE}{CAP}"));
        let marg = setup.set("kavach", json!({"reveal": reveal})).start().await;
        let refused = marg.chat("told", &chat(json!({}))).await;
        assert_eq!(refused.status, 403);
        assert!(refused.text().contains(says) && !refused.text().contains(hides), "{}", refused.text());
    }
}

#[tokio::test]
async fn a_session_has_figures_that_policies_can_limit() {
    let upstream = Upstream::http1().await;
    let two = "@id(\"two\") forbid(principal, action, resource) when { context.session.requests >= 2 };\n";
    let marg = gateway(&upstream, "enforce", &format!("{EVERYONE}{two}")).await;
    let ask = async |session: &str| {
        let call = Call::chat("session", &chat(json!({}))).header("x-marg-session", session);
        marg.send(call).await.status
    };
    assert_eq!([ask("a").await, ask("a").await, ask("a").await, ask("b").await], [200, 200, 403, 200]);
    let named = async |metadata: Value| marg.chat("named", &chat(json!({"metadata": metadata}))).await.status;
    for _ in 0..2 {
        assert_eq!(named(json!({"session_id": "m"})).await, 200);
    }
    assert_eq!(named(json!({"session_id": "m"})).await, 403);
}

#[tokio::test]
async fn a_session_that_an_operator_ended_is_refused_until_it_is_reset() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "enforce", EVERYONE).await;
    let ask = async || marg.send(Call::chat("s", &chat(json!({}))).header("x-marg-session", "s")).await;
    assert_eq!(ask().await.status, 200);
    let sessions = marg.ask_admin("GET", "/admin/sessions", None).await.json();
    assert_eq!(sessions["sessions"][0]["requests"], 1, "{sessions}");
    until("the session knows its tokens", || async {
        let sessions = marg.ask_admin("GET", "/admin/sessions", None).await.json();
        (sessions["sessions"][0]["output_tokens"].as_u64()? > 0).then_some(())
    })
    .await;
    let which = json!({"key_id": marg.key_id, "id": "s"});
    assert_eq!(marg.ask_admin("POST", "/admin/sessions/end", Some(&which)).await.status, 204);
    let refused = ask().await;
    refused.assert_error(403, "permission_denied");
    assert!(refused.text().contains("ended this session"), "{}", refused.text());
    assert_eq!(marg.ask_admin("POST", "/admin/sessions/reset", Some(&which)).await.status, 204);
    assert_eq!(ask().await.status, 200);
    let other = json!({"key_id": marg.key_id, "id": "none"});
    assert_eq!(marg.ask_admin("POST", "/admin/sessions/end", Some(&other)).await.status, 404);
}

#[tokio::test]
async fn a_key_that_a_policy_suspends_stays_so_until_an_operator_releases_it() {
    let upstream = Upstream::http1().await;
    let odd = "@id(\"odd\") @reason(\"odd\") @then(\"approval\") \
               forbid(principal, action, resource) when { context.drift.device >= 90 };\n";
    let setup = setup(Setup::with_default(&upstream), "enforce", &format!("{EVERYONE}{odd}"));
    let mut marg = setup.set("kavach", json!({"drift": {"device": true}})).start().await;
    let ask = async |marg: &Marg, device: &str| {
        marg.send(Call::chat("device", &chat(json!({}))).header("x-marg-device", device)).await
    };
    assert_eq!(ask(&marg, "one").await.status, 200);
    assert_eq!(ask(&marg, "two").await.status, 403);
    let refused = ask(&marg, "one").await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("suspended until an operator releases it"), "{}", refused.text());
    let path = format!("/admin/keys/{}", marg.key_id);
    until("the suspension is stored", || async {
        let key = marg.ask_admin("GET", &path, None).await.json();
        (key["status"] == "suspended" && key["suspended_reason"] == "odd").then_some(())
    })
    .await;
    marg.kill9();
    marg.restart().await;
    assert_eq!(ask(&marg, "one").await.status, 403);
    let released = marg.ask_admin("POST", &format!("{path}/release"), None).await;
    assert_eq!((released.status, released.json()["status"].as_str()), (200, Some("active")));
    assert_eq!(ask(&marg, "two").await.status, 200);
}

#[tokio::test]
async fn the_past_can_be_audited_explained_and_judged_again() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "observe", &format!("{EVERYONE}{CAP}")).await;
    let mut ids = Vec::new();
    for tokens in [10, 20, 60, 200, 300] {
        let passed = marg.chat("past", &chat(json!({"max_tokens": tokens}))).await;
        assert_eq!(passed.status, 200);
        ids.push(passed.id());
    }
    for id in &ids {
        marg.record(id).await;
    }
    let audit = marg.command(&["policy", "audit", "--since", "1h", "--output", "json"]).await;
    assert_eq!((&audit["judged"], &audit["refused"], &audit["would_be_refused"]), (&json!(5), &json!(0), &json!(2)));
    let row = &audit["would_be_refusals"][0];
    assert_eq!((&row["policy"], &row["key_id"], &row["count"]), (&json!("cap"), &json!(marg.key_id), &json!(2)));

    let stricter = marg.path("new.cedar");
    std::fs::write(&stricter, framed(&format!("{EVERYONE}{}", CAP.replace("100", "50")))).unwrap();
    let policy = stricter.to_str().unwrap().to_owned();
    let replay = marg.command(&["policy", "replay", "--since", "1h", "--policy", &policy, "--output", "json"]).await;
    assert_eq!((&replay["calls"], &replay["refused"], &replay["newly_refused"]), (&json!(5), &json!(3), &json!(3)));
    assert_eq!(replay["keys"], json!([{"key_id": marg.key_id, "count": 3}]));

    let order = json!({"exchange": ids[4]});
    let explained = marg.ask_admin("POST", "/admin/policy/explain", Some(&order)).await.json();
    assert_eq!((&explained["decision"], &explained["deciding"][0]["policy"]), (&json!("deny"), &json!("cap")));
    let shown = marg.ask_admin("GET", "/admin/policy", None).await.json();
    assert_eq!((&shown["mode"], &shown["policies"][1]["id"]), (&json!("observe"), &json!("cap")));
    let wrong = json!({"policies": "permit(principal, action, resource) when { context.nothing };"});
    let refused = marg.ask_admin("POST", "/admin/policy/replay", Some(&wrong)).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
}

/// The entries of the audit log that match a query, once there are so many.
async fn entries(marg: &Marg, query: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} entries of {query}"), || async {
        let answer = marg.ask_admin("GET", &format!("/admin/audit/entries?limit=1000&{query}"), None).await;
        let entries = answer.json()["entries"].as_array()?.clone();
        (entries.len() >= count).then_some(entries)
    })
    .await
}

#[tokio::test]
async fn a_change_of_the_mode_or_of_the_policies_is_recorded_with_who_made_it() {
    let upstream = Upstream::http1().await;
    let marg = gateway(&upstream, "observe", &format!("{EVERYONE}{CAP}")).await;
    let before = marg.ask_admin("GET", "/admin/policy", None).await.json()["set"].clone();
    let mut config = marg.config.clone();
    config["kavach"]["mode"] = json!("enforce");
    marg.rewrite(&config);
    assert!(reload(&marg).await);
    let found = entries(&marg, "kind=mode&subject=kavach", 1).await;
    let entry = &found[0]["entry"];
    assert_eq!(entry["actor"]["kind"], "admin_token", "{entry}");
    assert_eq!(entry["detail"]["detail"], json!({"from": "observe", "to": "enforce"}), "{entry}");
    let found = entries(&marg, "kind=policy", 1).await;
    let entry = &found[0]["entry"];
    assert_eq!(
        (&entry["detail"]["detail"]["from"]["set"], &entry["detail"]["detail"]["to"]["set"]),
        (&before, &before)
    );

    std::fs::write(marg.path("policy.cedar"), framed(EVERYONE)).unwrap();
    marg.signal(rustix::process::Signal::HUP);
    let found = entries(&marg, "kind=policy", 2).await;
    let change = found.iter().map(|found| &found["entry"]).find(|entry| entry["actor"]["kind"] == "system");
    let detail = &change.expect("a change by a signal is the gateway's own")["detail"]["detail"];
    assert_eq!(detail["from"]["set"], before, "{detail}");
    assert_ne!(detail["to"]["set"], before, "{detail}");
    assert_eq!((&detail["from"]["policies"], &detail["to"]["policies"]), (&json!(2), &json!(1)), "{detail}");
}

#[tokio::test]
async fn operators_are_judged_by_policies_about_them_and_by_no_others() {
    let upstream = Upstream::http1().await;
    let stop = "@id(\"stop\") forbid(principal, action, resource);\n";
    let about = "@id(\"no-deletes\") @reason(\"keys are revoked here\") \
        forbid(principal, action == Admin::Action::\"delete\", resource == Admin::Noun::\"key\");\n\
        @id(\"watched\") @mode(\"observe\") \
        forbid(principal in Admin::Role::\"admin\", action == Admin::Action::\"rotate\", resource);\n";
    let marg = gateway(&upstream, "observe", &format!("{EVERYONE}{stop}{about}")).await;
    let new = async || marg.make_key(&[]).await.1;
    let id = new().await;
    let delete = async |id: &str| marg.ask_admin("DELETE", &format!("/admin/keys/{id}"), None).await;
    assert_eq!(delete(&id).await.status, 204, "observing refuses nothing");
    let mut config = marg.config.clone();
    config["kavach"]["mode"] = json!("enforce");
    marg.rewrite(&config);
    assert!(reload(&marg).await);
    assert_eq!(marg.chat("stopped", &chat(json!({}))).await.status, 403);
    let id = new().await;
    let refused = delete(&id).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.text().contains("keys are revoked here (policy no-deletes)"), "{}", refused.text());
    assert_eq!(marg.ask_admin("POST", &format!("/admin/keys/{id}/rotate"), None).await.status, 200);
    assert_eq!(marg.ask_admin("POST", &format!("/admin/keys/{id}/revoke"), None).await.status, 200);
    let found = entries(&marg, &format!("kind=key&subject={id}"), 5).await;
    let of = |verdict: &str| {
        let entry =
            found.iter().map(|found| &found["entry"]).find(|entry| entry["detail"]["detail"]["verdict"] == verdict);
        entry.unwrap_or_else(|| panic!("nothing says {verdict}: {found:?}")).clone()
    };
    assert_eq!((&of("deny")["verb"], &of("deny")["detail"]["status"]), (&json!("delete"), &json!(403)));
    assert_eq!(of("would-deny")["detail"]["detail"]["policies"], json!(["watched"]));
    // Whoever works on the store itself is not asked: the way back in.
    let (status, _, said) = marg.try_command(&["keys", "delete", &id]).await;
    assert_eq!(status, 0, "{said}");
}

#[tokio::test]
async fn an_ended_session_stays_ended_after_a_restart_and_figures_go_on() {
    let upstream = Upstream::http1().await;
    let mut marg = gateway(&upstream, "enforce", EVERYONE).await;
    let ask = async |marg: &Marg, session: &str| {
        marg.send(Call::chat("s", &chat(json!({}))).header("x-marg-session", session)).await.status
    };
    for session in ["a", "b", "a"] {
        assert_eq!(ask(&marg, session).await, 200);
    }
    let which = json!({"key_id": marg.key_id, "id": "b"});
    assert_eq!(marg.ask_admin("POST", "/admin/sessions/end", Some(&which)).await.status, 204);
    marg.signal(rustix::process::Signal::TERM);
    marg.ended().await;
    marg.restart().await;
    assert_eq!((ask(&marg, "a").await, ask(&marg, "b").await), (200, 403));
    let sessions = marg.ask_admin("GET", "/admin/sessions", None).await.json();
    let of =
        |id: &str| sessions["sessions"].as_array().unwrap().iter().find(|session| session["id"] == id).unwrap().clone();
    assert_eq!(of("a")["requests"], 3, "{sessions}");
    assert!(of("b")["ended_until"].is_string(), "{sessions}");
    // The command line does it on the store, too, and the gateway hears of it.
    let (status, _, said) = marg.try_command(&["sessions", "reset", &marg.key_id, "b"]).await;
    assert_eq!(status, 0, "{said}");
    until("the session goes on", || async { (ask(&marg, "b").await == 200).then_some(()) }).await;
}

#[tokio::test]
async fn tokens_that_are_counted_late_reach_the_session() {
    let upstream = Upstream::http1().await;
    // A stream without usage: nobody knows its tokens until they are counted, after its end.
    let text = crate::support::answers::text("m", "a few words to be counted later on");
    let pieces = vec![text, "data: [DONE]\n\n".into()];
    let body = crate::support::reply::Body::Pieces(pieces, crate::support::reply::End::Clean);
    upstream.answer("late", crate::support::reply::Answer::event_stream(body).into());
    let few = "@id(\"few\") forbid(principal, action, resource) when { context.session.output_tokens > 3 };\n";
    let marg = gateway(&upstream, "enforce", &format!("{EVERYONE}{few}")).await;
    let ask = async || {
        let call = Call::chat("late", &chat(json!({"stream": true}))).header("x-marg-session", "s");
        marg.send(call).await.status
    };
    assert_eq!(ask().await, 200);
    until("the session knows its tokens", || async {
        let sessions = marg.ask_admin("GET", "/admin/sessions", None).await.json();
        (sessions["sessions"][0]["output_tokens"].as_u64()? > 3).then_some(())
    })
    .await;
    assert_eq!(ask().await, 403);
}
