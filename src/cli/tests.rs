//! The command line against a store in a temporary folder, and its page of documentation.

use std::path::Path;

use axum::http::Method;
use clap::Parser;
use serde_json::json;

use super::door::Door;
use super::failure::Exit;
use super::{Line, grammar, run};
use crate::config::load;

/// Runs a line as `main` would, on a configuration in that folder.
fn marg(dir: &Path, line: &[&str]) -> Result<(), (Exit, String)> {
    let config = dir.join("marg.yaml");
    let common = ["marg", "--config", config.to_str().unwrap(), "--output", "json"];
    let line = Line::try_parse_from(common.iter().chain(line)).map_err(|error| (Exit::Usage, error.to_string()))?;
    run(line).map(drop).map_err(|failure| (failure.exit, failure.text))
}

fn init(dir: &Path) {
    marg(dir, &["init", "--dir", dir.to_str().unwrap()]).unwrap();
}

/// Asks the store as commands do.
fn ask(dir: &Path, method: Method, path: &str, body: Option<serde_json::Value>) -> serde_json::Value {
    let door = Door::Store { config: dir.join("marg.yaml") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(door.ask(method, path, body.as_ref())).unwrap()
}

fn files(dir: &Path) -> Vec<(String, u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for name in ["marg.yaml", "data/hash.key", "data/admin.token", "data/marg.db"] {
        let path = dir.join(name);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let content = if name.ends_with(".db") { Vec::new() } else { std::fs::read(&path).unwrap() };
        found.push((name.to_owned(), mode, content));
    }
    found
}

#[test]
fn init_makes_everything_for_its_owner_only_and_a_second_run_changes_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("new/marg");
    init(&dir);
    let first = files(&dir);
    assert!(first.iter().all(|(_, mode, _)| *mode == 0o600), "{first:?}");
    for folder in [&dir, &dir.join("data")] {
        assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
    }
    assert_eq!(load::load(&dir.join("marg.yaml")).unwrap().config.data_dir, dir.canonicalize().unwrap().join("data"));
    init(&dir);
    assert_eq!(files(&dir), first);
    assert_eq!(ask(&dir, Method::GET, "/admin/tokens", None)["admin_tokens"].as_array().unwrap().len(), 1);
}

#[test]
fn force_writes_the_configuration_anew_and_nothing_else() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    init(dir);
    let first = files(dir);
    std::fs::write(dir.join("marg.yaml"), "nonsense: [").unwrap();
    assert_eq!(marg(dir, &["init", "--dir", dir.to_str().unwrap()]).unwrap_err().0, Exit::Failed);
    marg(dir, &["init", "--force", "--dir", dir.to_str().unwrap()]).unwrap();
    assert_eq!(files(dir), first);
}

#[test]
fn a_command_without_a_configuration_says_what_to_do() {
    let temporary = tempfile::tempdir().unwrap();
    for line in
        [&["keys", "list"][..], &["db", "migrate"], &["requests", "list"], &["admin", "token", "list"], &["start"]]
    {
        let (exit, text) = marg(temporary.path(), line).unwrap_err();
        assert!(exit == Exit::Failed && text.contains("marg init"), "{line:?}: {text}");
    }
    assert_eq!(marg(temporary.path(), &["check"]).unwrap_err().0, Exit::Failed);
}

#[test]
fn an_empty_file_is_no_configuration_but_empty_braces_are() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("marg.yaml");
    std::fs::write(&path, " \n").unwrap();
    assert!(load::load(&path).unwrap_err().iter().any(|problem| problem.text.contains("empty")));
    std::fs::write(&path, "{}\n").unwrap();
    assert_eq!(load::load(&path).unwrap().config, crate::config::Config::default());
}

#[test]
fn a_key_is_made_without_the_secrets_of_the_providers() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let config = |more: &str| {
        let text = format!(
            "data_dir: {}/data\nproviders:\n  a: {{preset: openai, credentials: [env:MARG_NOT_SET]}}\n{more}",
            dir.display()
        );
        std::fs::write(dir.join("marg.yaml"), text).unwrap();
    };
    config("keys: {hash_key: env:MARG_NOT_SET_EITHER}\n");
    let (exit, text) = marg(dir, &["keys", "create", "--name", "a"]).unwrap_err();
    assert!(exit == Exit::Failed && text.contains("MARG_NOT_SET_EITHER") && !text.contains("MARG_NOT_SET "), "{text}");
    config("");
    marg(dir, &["keys", "create", "--name", "a"]).unwrap();
    assert_eq!(marg(dir, &["check"]).unwrap_err().0, Exit::Failed);
}

#[test]
fn the_exit_code_tells_what_went_wrong() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    init(dir);
    let made = ask(dir, Method::POST, "/admin/keys", Some(json!({"name": "a"})));
    let id = made["key"]["id"].as_str().unwrap();
    let exit = |line: &[&str]| marg(dir, line).map_or_else(|(exit, _)| Some(exit), |()| None);
    assert_eq!(exit(&["keys", "show", "nonsense"]), Some(Exit::Usage));
    for line in [["keys", "show", ""], ["limits", "delete", ""], ["teams", "show", ""]] {
        let text = marg(dir, &line).unwrap_err().1;
        assert!(text.contains("it is empty"), "{line:?}: {text}");
    }
    assert_eq!(exit(&["keys", "show", "key_00000000000000000000000000"]), Some(Exit::NotFound));
    assert_eq!(exit(&["keys", "create"]), Some(Exit::Usage));
    assert_eq!(exit(&["keys", "create", "--name", "a", "--expires-in", "soon"]), Some(Exit::Usage));
    assert_eq!(exit(&["keys", "create", "--name", "a", "--expires-at", "2001-01-01T00:00:00Z"]), Some(Exit::Conflict));
    assert_eq!(exit(&["keys", "create", "--name", "a", "--label", "x"]), Some(Exit::Usage));
    assert_eq!(exit(&["--server", "https://127.0.0.1", "keys", "list"]), Some(Exit::Usage));
    assert_eq!(exit(&["--server", "http://127.0.0.1:1", "--token", "x", "keys", "list"]), Some(Exit::Unreachable));
    assert_eq!(exit(&["--server", "http://127.0.0.1:1", "--token", "a b", "keys", "list"]), Some(Exit::Refused));
    assert_eq!(exit(&["keys", "revoke", id]), None);
    assert_eq!(exit(&["keys", "enable", id]), Some(Exit::Conflict));
    assert_eq!(exit(&["keys", "rotate", id]), Some(Exit::Conflict));
    assert_eq!(exit(&["keys", "delete", id]), None);
    assert_eq!(exit(&["keys", "delete", id]), Some(Exit::NotFound));
    let tokens = ask(dir, Method::GET, "/admin/tokens", None);
    let last = tokens["admin_tokens"][0]["id"].as_str().unwrap();
    assert_eq!(exit(&["admin", "token", "revoke", last]), Some(Exit::Conflict));
}

#[test]
fn every_flag_of_a_new_key_reaches_the_store() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    init(dir);
    let line = [
        "keys",
        "create",
        "--name",
        "ci",
        "--org",
        "o",
        "--team",
        "t",
        "--user",
        "u",
        "--model",
        "a*",
        "--model",
        "b",
        "--address",
        "10.0.0.0/8",
        "--label",
        "x=1",
        "--label",
        "y=a=b",
        "--expires-in",
        "30d",
        "--style",
        "anthropic",
    ];
    marg(dir, &line).unwrap();
    let keys = ask(dir, Method::GET, "/admin/keys", None);
    let key = &keys["keys"][0];
    assert_eq!((&key["org"], &key["team"], &key["user"]), (&json!("o"), &json!("t"), &json!("u")));
    assert_eq!((&key["models"], &key["addresses"]), (&json!(["a*", "b"]), &json!(["10.0.0.0/8"])));
    assert_eq!(key["labels"], json!({"x": "1", "y": "a=b"}));
    assert!(key["hint"].as_str().unwrap().starts_with("sk-ant-") && key["expires_at"].is_string());
    marg(dir, &["keys", "list", "--team", "t", "--status", "active", "--limit", "1"]).unwrap();
}

#[test]
fn limits_and_parties_live_in_the_store_without_a_server() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    init(dir);
    let exit = |line: &[&str]| marg(dir, line).map_or_else(|(exit, _)| Some(exit), |()| None);
    let limit = ["limits", "create", "--scope", "team", "--subject", "web", "--unit", "usd", "--window", "month"];
    let limit = |more: &[&str]| exit(&[&limit[..], more].concat());
    assert_eq!(limit(&["--amount-usd", "12.50"]), Some(Exit::Conflict), "there is no such team");
    assert_eq!(exit(&["teams", "create", "--name", "web", "--max-output-tokens", "9", "--label", "a=b"]), None);
    assert_eq!(exit(&["teams", "create", "--name", "web"]), Some(Exit::Conflict));
    assert_eq!(exit(&["teams", "update", "web", "--model", "gpt-*", "--description", "The site"]), None);
    assert_eq!(exit(&["teams", "disable", "web"]), None);
    let team = ask(dir, Method::GET, "/admin/teams/web", None);
    assert_eq!((&team["models"], &team["max_output_tokens"]), (&json!(["gpt-*"]), &json!(9)));
    assert_eq!((&team["enabled"], &team["counters"]), (&json!(false), &json!([])));
    assert_eq!(exit(&["teams", "enable", "web"]), None);
    assert_eq!(exit(&["teams", "show", "nobody"]), Some(Exit::NotFound));
    assert_eq!(exit(&["orgs", "list"]), None);
    assert_eq!(limit(&["--amount-usd", "-1"]), Some(Exit::Usage));
    assert_eq!(limit(&["--amount", "5"]), Some(Exit::Usage));
    assert_eq!(limit(&["--amount-usd", "12.50", "--warn-at", "80", "--warn-at", "100"]), None);
    assert_eq!(limit(&["--amount-usd", "13"]), Some(Exit::Conflict), "it contradicts the one before");
    let limits = ask(dir, Method::GET, "/admin/limits", None);
    let made = &limits["limits"][0];
    assert_eq!((&made["amount_nano_usd"], &made["warn_at_percent"]), (&json!(12_500_000_000_i64), &json!([80, 100])));
    let id = made["id"].as_str().unwrap();
    assert_eq!(exit(&["limits", "update", id, "--amount-usd", "20", "--disable"]), None);
    let made = ask(dir, Method::GET, &format!("/admin/limits/{id}"), None);
    assert_eq!((&made["amount_usd"], &made["enabled"]), (&json!("20.000000000"), &json!(false)));
    assert_eq!(exit(&["limits", "list", "--scope", "team"]), None);
    assert_eq!(exit(&["limits", "state"]), None);
    assert_eq!(exit(&["limits", "state", id, "--limit", "5"]), None);
    assert_eq!(exit(&["limits", "reset", id, "--subject", "web"]), None);
    assert_eq!(exit(&["limits", "reset", "lim_00000000000000000000000000"]), Some(Exit::NotFound));
    assert_eq!(exit(&["limits", "delete", id]), None);
    assert_eq!(exit(&["limits", "show", id]), Some(Exit::NotFound));
    assert_eq!(exit(&["teams", "delete", "web"]), None);
    assert_eq!(exit(&["spend", "--by", "team", "--since", "24h"]), None);
}

#[test]
fn new_keys_follow_the_defaults_of_the_configuration() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let text = "keys:\n  defaults: {max_output_tokens: 100, expires_in: 30d, models: [gpt-*], labels: {env: dev}}\n";
    std::fs::write(dir.join("marg.yaml"), format!("data_dir: {}/data\n{text}", dir.display())).unwrap();
    marg(dir, &["keys", "create", "--name", "a"]).unwrap();
    marg(dir, &["keys", "create", "--name", "b", "--no-expiry", "--model", "x", "--max-output-tokens", "7"]).unwrap();
    let keys = ask(dir, Method::GET, "/admin/keys", None);
    let (b, a) = (&keys["keys"][0], &keys["keys"][1]);
    assert_eq!(
        (&a["max_output_tokens"], &a["models"], &a["labels"]["env"]),
        (&json!(100), &json!(["gpt-*"]), &json!("dev"))
    );
    assert!(a["expires_at"].is_string() && b["expires_at"].is_null());
    assert_eq!((&b["max_output_tokens"], &b["models"]), (&json!(7), &json!(["x"])));
}

#[test]
fn an_export_is_for_its_owner_only_and_replaces_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    init(dir);
    let file = dir.join("export.csv");
    let line = ["requests", "export", "--format", "csv", "--since", "2h", "--output-file", file.to_str().unwrap()];
    marg(dir, &line).unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("id,started_at,"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(marg(dir, &line).unwrap_err().0, Exit::Failed);
    marg(dir, &["requests", "list", "--errors-only", "--status", "4xx", "--model", "gpt-*"]).unwrap();
}

#[test]
fn the_page_names_every_command_and_every_flag() {
    fn visit(command: &clap::Command, path: &str, page: &str) {
        for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(page.contains(&format!("`--{flag}")), "docs/cli.md does not name --{flag} of {path}");
        }
        let mut subcommands = command.get_subcommands().filter(|sub| sub.get_name() != "help").peekable();
        if subcommands.peek().is_none() {
            let heading = page.lines().find(|line| line.starts_with(&format!("### `{path}")));
            assert!(heading.is_some(), "docs/cli.md has no heading for {path}");
        }
        subcommands.for_each(|sub| visit(sub, &format!("{path} {}", sub.get_name()), page));
    }
    visit(&grammar(), "marg", include_str!("../../docs/cli.md"));
}

#[test]
fn the_grammar_holds_together() {
    grammar().debug_assert();
}

#[test]
fn the_page_names_every_exit_code() {
    let page = include_str!("../../docs/cli.md");
    for exit in [Exit::Failed, Exit::Usage, Exit::NotFound, Exit::Refused, Exit::Unreachable, Exit::Conflict] {
        assert!(page.contains(&format!("\n| {} |", exit as u8)), "{exit:?}");
    }
}

#[tokio::test]
async fn commands_work_against_a_running_instance_as_far_as_the_role_goes() {
    use crate::key::admin::Role;
    use crate::unit::secret::Secret;
    let house = crate::admin::tests::House::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let router = crate::admin::router(house.state.clone());
    crate::telemetry::task::spawn("admin", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
            connection.await.unwrap();
        }
    });
    let door = |token: &str| Door::to_server(authority.clone(), Secret::new(token)).unwrap();
    let body = json!({"name": "ci"});
    let create = |door: Door| {
        let body = body.clone();
        async move { door.ask(Method::POST, "/admin/keys", Some(&body)).await }
    };
    let refused = create(door(house.token(Role::Auditor))).await.unwrap_err();
    assert!(refused.exit == Exit::Refused && refused.text.contains("auditor"), "{}", refused.text);
    assert_eq!(create(door("wrong")).await.unwrap_err().exit, Exit::Refused);
    let made = create(door(house.token(Role::Operator))).await.unwrap();
    assert!(made["token"].as_str().unwrap().starts_with("marg_live_"));
    let problem =
        crate::admin::control::ReloadProblem { line: 3, column: 5, path: "a.b".to_owned(), text: "no".to_owned() };
    *house.control.reload.lock().unwrap() =
        crate::admin::control::ReloadReport { errors: vec![problem], ..Default::default() };
    let reload = door(house.token(Role::Admin)).ask(Method::POST, "/admin/reload", None).await.unwrap_err();
    assert!(reload.exit == Exit::Conflict && reload.text.contains("3:5: a.b: no"), "{}", reload.text);
}

#[test]
fn policies_are_checked_formatted_tried_imported_and_compared() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ok = |line: &[&str]| marg(dir, line).unwrap_or_else(|failure| panic!("{line:?}: {failure:?}"));
    let fails = |line: &[&str]| marg(dir, line).unwrap_err().0;
    let good = write("good.cedar", include_str!("../../conf/policy.cedar"));
    let bad = write("bad.cedar", "permit(principal, action, resource) when { context.nothing };");
    ok(&["policy", "check", &good]);
    ok(&["policy", "fmt", "--check", &good]);
    assert_eq!(fails(&["policy", "check", &bad]), Exit::Failed);
    assert_eq!(fails(&["policy", "check", "/nowhere.cedar"]), Exit::Failed);
    // What the configuration names is the default.
    assert_eq!(fails(&["policy", "check"]), Exit::Failed);
    write("marg.yaml", &format!("kavach: {{policy: {good}}}"));
    ok(&["policy", "check"]);

    let ugly = write("ugly.cedar", "// begin\n// Why.\npermit(principal,action,\nresource);\n// end\n");
    assert_eq!(fails(&["policy", "fmt", "--check", &ugly]), Exit::Failed);
    ok(&["policy", "fmt", &ugly]);
    let text = std::fs::read_to_string(&ugly).unwrap();
    assert_eq!(text, "// begin\n// Why.\npermit (principal, action, resource);\n// end\n");

    let cases = write(
        "cases.yaml",
        "cases: [{name: a, expect: allow}, {name: b, expect: deny, call: {context: {drift: {geo: 95}}}}]",
    );
    ok(&["policy", "test", &cases]);
    assert_eq!(fails(&["policy", "test", &cases, "--policy", &ugly]), Exit::Failed);
    assert_eq!(fails(&["policy", "test", &cases, "--time-zone", "Mars"]), Exit::Usage);
    let call = write("call.yaml", "{caller: {key: key_1}, context: {drift: {geo: 95}}}");
    ok(&["policy", "explain", &call]);
    let operation = write("operation.yaml", "operation: {token: adm_1, role: admin, verb: delete, noun: key}");
    ok(&["policy", "explain", &operation]);
    let both = write("both.yaml", "{operation: {token: adm_1, role: admin, verb: delete, noun: key}, action: chat}");
    assert_eq!(fails(&["policy", "explain", &both]), Exit::Failed);
    ok(&["policy", "diff", &good, &ugly, "--cases", &cases]);

    let toml = write("old.toml", "[[policy]]\nname = \"a\"\neffect = \"permit\"\n");
    let new = dir.join("new.cedar").display().to_string();
    ok(&["policy", "import", &toml, "--to", &new]);
    ok(&["policy", "check", &new]);
    assert_eq!(fails(&["policy", "import", &toml, "--to", &new]), Exit::Failed);
    assert_eq!(fails(&["policy", "import", &good]), Exit::Failed);
}

#[test]
fn a_permit_is_verified_without_the_gateway() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let write = |name: &str, text: &str| {
        let path = dir.join(name).display().to_string();
        std::fs::write(&path, text).unwrap();
        path
    };
    let keys = write("jwks.json", include_str!("../../tests/permit/jwks.json"));
    let body = write("body", "{\"model\":\"gpt-4.1-mini\"}");
    let (token, both) =
        (include_str!("../../tests/permit/token.txt"), include_str!("../../tests/permit/token-both.json"));
    let verify = |token: &str, more: &[&str]| {
        let line = [&["permit", "verify", token, "--jwks", &keys, "--at", "1800000000"], more].concat();
        marg(dir, &line).map_err(|(exit, _)| exit)
    };
    for token in [token, both] {
        assert_eq!(verify(token, &["--audience", "openai", "--body", &body, "--enforced"]), Ok(()));
        assert_eq!(verify(token, &["--any-audience", "--algorithm", "ed25519"]), Ok(()));
        assert_eq!(verify(token, &["--audience", "azure"]), Err(Exit::Failed));
        assert_eq!(verify(token, &["--any-audience", "--body", &keys]), Err(Exit::Failed));
        assert_eq!(verify(token, &["--any-audience", "--at", "1800000120"]), Err(Exit::Usage), "a flag stands twice");
        assert_eq!(verify(&token.replacen("ey", "eY", 1), &["--any-audience"]), Err(Exit::Failed));
    }
    assert_eq!(verify(token, &["--any-audience", "--algorithm", "ml-dsa-65"]), Err(Exit::Failed));
    assert_eq!(verify(both, &["--any-audience", "--algorithm", "ml-dsa-65"]), Ok(()));
    assert_eq!(verify(token, &[]), Err(Exit::Usage), "for whom it is has to be said");
    assert_eq!(verify(token, &["--any-audience", "--algorithm", "rs256"]), Err(Exit::Usage));
    let other = write("no.json", "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"1\",\"x\":\"AA\"}]}");
    let with = |keys: &str| marg(dir, &["permit", "verify", token, "--jwks", keys, "--any-audience"]).unwrap_err().0;
    assert_eq!((with(&other), with(&body), with("nowhere.json")), (Exit::Usage, Exit::Usage, Exit::Usage));
}

#[test]
fn a_key_for_permits_is_made_once_and_shown_without_its_secret() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let file = dir.join("permit.key").display().to_string();
    let key = |verb: &str, file: &str| marg(dir, &["permit", "key", verb, "--file", file]).map_err(|(exit, _)| exit);
    assert_eq!(key("show", &file), Err(Exit::Usage));
    assert_eq!(key("create", &file), Ok(()));
    assert_eq!(key("create", &file), Err(Exit::Conflict));
    assert_eq!(key("show", &file), Ok(()));
    init(dir);
    assert_eq!(marg(dir, &["permit", "key", "rotate"]).unwrap_err().0, Exit::NotFound);
    let kept = dir.join("data/permit.key");
    std::fs::copy(&file, &kept).unwrap();
    marg(dir, &["permit", "key", "rotate"]).unwrap();
    assert_ne!(std::fs::read(&kept).unwrap(), std::fs::read(&file).unwrap());
}

#[test]
fn a_move_needs_a_source_that_is_there_and_a_target_that_is_another() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    init(dir);
    marg(dir, &["keys", "create", "--name", "a"]).unwrap();
    let at = |name: &str| format!("sqlite:{}", dir.join(name).display());
    let migrate = |from: &[&str], to: &str| {
        let line = [&["db", "migrate", "--to", to], from].concat();
        marg(dir, &line).map_err(|(exit, _)| exit)
    };
    let typo = at("data/mrag.db");
    assert_eq!(migrate(&["--from", &typo], &at("new.db")), Err(Exit::Conflict));
    assert!(!dir.join("data/mrag.db").exists() && !dir.join("new.db").exists());
    std::fs::write(dir.join("empty.db"), "").unwrap();
    assert_eq!(migrate(&["--from", &at("empty.db")], &at("new.db")), Err(Exit::Conflict));
    std::os::unix::fs::symlink(dir.join("data/marg.db"), dir.join("link.db")).unwrap();
    for same in ["data/marg.db", "data/./marg.db", "data/../data/marg.db", "link.db"] {
        assert_eq!(migrate(&[], &at(same)), Err(Exit::Usage), "{same}");
    }
    assert_eq!(migrate(&[], &at("new.db")), Ok(()));
    assert_eq!(migrate(&["--from", &at("link.db")], &at("new.db")), Ok(()), "begun again");
}

#[test]
fn a_variable_that_is_set_to_nothing_counts_as_not_set() {
    let variables = |is_empty| {
        let command = super::command(is_empty);
        command.get_arguments().filter_map(|arg| arg.get_env().map(ToOwned::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(variables(|_| false), ["MARG_CONFIG", "MARG_SERVER", "MARG_ADMIN_TOKEN"]);
    assert_eq!(variables(|name| name == "MARG_SERVER"), ["MARG_CONFIG", "MARG_ADMIN_TOKEN"]);
    let matches = super::command(|_| true).try_get_matches_from(["marg", "version"]).unwrap();
    assert_eq!(matches.get_one::<std::path::PathBuf>("config").unwrap(), Path::new("marg.yaml"));
}

#[test]
fn a_file_is_checked_by_its_name() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let file = dir.join("other.yaml");
    let name = file.to_str().unwrap();
    std::fs::write(&file, "server: {listen: 127.0.0.1:1}\n").unwrap();
    marg(dir, &["check", name]).unwrap();
    std::fs::write(&file, "database: {url: 'plain:postgres://u@h/d?colour=red'}\n").unwrap();
    assert_eq!(marg(dir, &["check", name]).unwrap_err().0, Exit::Failed);
}

#[test]
fn runs_of_init_at_once_make_one_token_between_them() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| init(dir));
        }
    });
    let tokens = ask(dir, Method::GET, "/admin/tokens", None);
    let tokens = tokens["admin_tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    let kept = std::fs::read_to_string(dir.join("data/admin.token")).unwrap();
    let hint = tokens[0]["hint"].as_str().unwrap();
    assert!(hint.chars().rev().take(4).eq(kept.trim().chars().rev().take(4)), "{hint} {kept}");
}
