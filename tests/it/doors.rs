//! Ports and what they show: a gateway that says it is ready serves, and one that cannot serve ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup, merge};
use crate::support::until;
use crate::support::upstream::Upstream;

/// Ends the gateway and starts it with other settings, which may not let it be reached where it was.
async fn relaunch_with(marg: &mut Marg, more: Value) {
    marg.signal(Signal::TERM);
    assert_eq!(marg.ended().await.code(), Some(0), "{}", marg.logged());
    let mut config = marg.config.clone();
    merge(&mut config, more);
    marg.rewrite(&config);
    marg.relaunch();
}

/// What the gateway says when it is ready, for the nth time.
async fn ready(marg: &Marg, nth: usize) -> Value {
    until("the gateway says that it is ready", || async {
        let logged = marg.logged();
        let lines = logged.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == "ready").nth(nth)
    })
    .await
}

fn tls(certificate: &str, key: &str) -> Value {
    let at = |name: &str| format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    json!({"server": {"tls": {"certificate": at(certificate), "key": at(key)}}})
}

/// Asks for the readiness under TLS, as whoever trusts that one certificate.
fn ask_under_tls(address: SocketAddr) -> std::io::Result<String> {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../tls/localhost.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address)?);
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[tokio::test]
async fn a_certificate_that_cannot_be_served_keeps_a_gateway_from_starting() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    for (key, fault) in [("other.key", "not the private key of the first certificate"), ("p521.key", "it takes RSA")] {
        let mut config = marg.config.clone();
        merge(&mut config, tls("localhost.pem", key));
        marg.rewrite(&config);
        let (code, _, errors) = marg.try_command(&["check"]).await;
        assert!(code == 1 && errors.contains("server.tls.key: ") && errors.contains(fault), "{code}: {errors}");
        let answer = marg.ask_admin("POST", "/admin/reload", None).await;
        assert!(answer.status == 409 && answer.text().contains(fault), "{}", answer.text());
    }
    marg.signal(Signal::TERM);
    assert_eq!(marg.ended().await.code(), Some(0));
    let (code, _, errors) = marg.try_command(&["start"]).await;
    assert!(code == 1 && errors.contains("it takes RSA"), "{code}: {errors}");
}

#[tokio::test]
async fn applications_are_served_under_tls() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    relaunch_with(&mut marg, tls("localhost.pem", "localhost.key")).await;
    ready(&marg, 1).await;
    let address = marg.address;
    let answer = tokio::task::spawn_blocking(move || ask_under_tls(address)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    marg.signal(Signal::TERM);
    assert_eq!(marg.ended().await.code(), Some(0), "{}", marg.logged());
}

#[tokio::test]
async fn a_reload_believes_the_authorities_that_the_file_holds_by_then() {
    let upstream = Upstream::http1().await;
    let mut provider = Setup::with_default(&upstream).start().await;
    relaunch_with(&mut provider, tls("localhost.pem", "localhost.key")).await;
    ready(&provider, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("authorities.pem");
    std::fs::write(&authorities, include_bytes!("../tls/stranger.pem")).unwrap();
    let mut marg = Setup::with_default(&upstream).start().await;
    let asked = json!({
        "base_url": format!("https://localhost:{}/v1", provider.address.port()),
        "credentials": [format!("plain:{}", provider.key)],
        "ca_file": authorities,
    });
    relaunch_with(&mut marg, json!({"providers": {"main": asked}})).await;
    ready(&marg, 1).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(marg.chat("a stranger", &body).await.status, 502);
    std::fs::write(&authorities, include_bytes!("../tls/localhost.pem")).unwrap();
    let report = marg.ask_admin("POST", "/admin/reload", None).await.json();
    assert_eq!(report["changed"], json!(["providers.main.ca_file"]), "{report}");
    assert_eq!(marg.chat("believed", &body).await.status, 200);
    std::fs::write(&authorities, include_bytes!("../tls/stranger.pem")).unwrap();
    assert_eq!(marg.ask_admin("POST", "/admin/reload", None).await.status, 200);
    assert_eq!(marg.chat("a stranger again", &body).await.status, 502);
}

#[tokio::test]
async fn ports_that_the_system_chooses_are_told_and_kept_apart() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let any = json!({"server": {"listen": "127.0.0.1:0"}, "admin": {"listen": "127.0.0.1:0"}});
    relaunch_with(&mut marg, any).await;
    let told = ready(&marg, 1).await;
    let address = |name: &str| told[name].as_str().unwrap().parse::<SocketAddr>().unwrap();
    (marg.address, marg.admin) = (address("data_plane"), address("admin"));
    assert!(marg.address.port() != 0 && marg.admin.port() != 0 && marg.address != marg.admin, "{told}");
    assert_eq!(
        marg.chat("any port", &json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})).await.status,
        200
    );
    // The admin side is on its own port and there only, and a reload finds both ports as they were asked for.
    let mut applications = Client::http1(marg.address, &marg.admin_token).await;
    let elsewhere = applications.open(Call::new("GET", "/admin/status")).await.finish_unchecked().await;
    elsewhere.assert_error(401, "invalid_api_key");
    let answer = marg.ask_admin("POST", "/admin/reload", None).await;
    assert_eq!(answer.json()["needs_restart"], json!([]), "{}", answer.text());
    marg.signal(Signal::TERM);
    assert_eq!(marg.ended().await.code(), Some(0), "{}", marg.logged());
}

#[tokio::test]
async fn a_gateway_without_an_admin_side_names_no_address_of_it() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    assert_eq!(ready(&marg, 0).await["admin"], marg.admin.to_string());
    relaunch_with(&mut marg, json!({"admin": {"enabled": false}})).await;
    let told = ready(&marg, 1).await;
    assert_eq!((told["data_plane"].as_str(), told.get("admin")), (Some(&*marg.address.to_string()), None));
}

#[tokio::test]
async fn a_port_of_somebody_else_keeps_a_gateway_from_starting() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).start().await;
    let mut config = marg.config.clone();
    merge(&mut config, json!({"data_dir": marg.path("other")}));
    marg.rewrite(&config);
    let (code, _, errors) = marg.try_command(&["start"]).await;
    let expected = format!("cannot listen on {} (server.listen)", marg.address);
    assert!(code == 1 && errors.contains(&expected) && !errors.contains("\"ready\""), "{code}: {errors}");
    assert!(!marg.path("other").exists(), "a start that fails at once leaves nothing behind");
}

#[tokio::test]
async fn a_hangup_during_the_start_does_not_end_the_process() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    let away = json!({"url": "postgres://marg@127.0.0.1:1/marg", "away_at_start": "wait", "connect_timeout_ms": 500});
    relaunch_with(&mut marg, json!({"database": away})).await;
    marg.logs("there is no snapshot; waiting").await;
    marg.signal(Signal::HUP);
    marg.signal(Signal::TERM);
    // The system hands over the signal of the lower number first, so the hangup was survived.
    assert_eq!(marg.ended().await.signal(), Some(Signal::TERM.as_raw()), "{}", marg.logged());
}

#[tokio::test]
async fn callers_who_say_nothing_leave_descriptors_for_everybody_else() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).start().await;
    marg.signal(Signal::TERM);
    assert_eq!(marg.ended().await.code(), Some(0), "{}", marg.logged());
    // More than half of these would be set aside; a third of the other half is for callers.
    marg.restart_with_descriptors((128, 600)).await;
    marg.logs("callers get 100 connections instead of the 20000 of server.max_connections").await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(tokio::net::TcpStream::connect(marg.address).await.unwrap());
    }
    let is_open = |stream: &tokio::net::TcpStream| {
        stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    until("those beyond the bound are closed", || async {
        (silent.iter().filter(|stream| is_open(stream)).count() <= 100).then_some(())
    })
    .await;
    assert_eq!(marg.ask_admin("GET", "/admin/status", None).await.status, 200);
    drop(silent);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let answer = until("a call is taken again", || async {
        let mut client = Client::http1(marg.address, &marg.key).await;
        client.try_send(Call::chat("after", &body)).await.ok()
    })
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!marg.logged().contains("Accept() failed"), "{}", marg.logged());
}
