//! Which models a provider has, asked of the provider itself.
//!
//! A model server on one's own machine – vLLM, Ollama – is in no price list, and its operator should not have to write its
//! models down twice. So providers without `models` and without a price list are asked for `/models` at the start, after
//! reloads and every few minutes, with their own credentials. The answer is for `GET /v1/models` only: it decides nothing,
//! and a provider that does not answer keeps what it said last.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::http::client::HttpSession;
use pingora_http::RequestHeader;
use serde_json::Value;
use tokio::sync::watch;

use crate::assemble::connector::connector;
use crate::assemble::core::Core;
use crate::provider::Provider;
use crate::provider::credential::Pick;
use crate::proxy::headers::authorize;
use crate::unit::clock::Tick;

/// How often providers are asked.
const EVERY: Duration = Duration::from_secs(300);
/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is read of an answer, and the most models that are taken from it.
const MAX_BYTES: usize = 4 * 1024 * 1024;
const MAX_MODELS: usize = 2_000;

/// Asks again and again, until the process stops.
pub async fn keep_asking(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    let mut silent: HashSet<Arc<str>> = HashSet::new();
    loop {
        let providers: Vec<Arc<Provider>> = core.gateway.live.load().providers.values().cloned().collect();
        for provider in providers.iter().filter(|provider| is_unknown(provider)) {
            match tokio::time::timeout(PATIENCE, ask(provider)).await {
                Ok(Some(models)) => {
                    silent.remove(&provider.name);
                    provider.discovered.store(Arc::new(models));
                }
                // It is asked every few minutes, and said once.
                _ if silent.insert(provider.name.clone()) => {
                    tracing::warn!(provider = %provider.name, "a provider does not say which models it has; GET /v1/models lists none that it has learned since, unless providers.*.models names them");
                }
                _ => tracing::debug!(provider = %provider.name, "a provider did not say which models it has"),
            }
        }
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            () = core.reloaded.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

fn is_unknown(provider: &Provider) -> bool {
    let settings = &provider.settings;
    settings.enabled && settings.models.is_empty() && settings.price_provider.is_none()
}

async fn ask(provider: &Provider) -> Option<Vec<String>> {
    let mut peer = provider.transport.peer(&provider.endpoint.addresses().await.ok()?);
    // A connection over HTTP/2 that has room for another call would be kept, and nobody gives it back.
    peer.options.max_h2_streams = 1;
    let (mut session, _) = connector().get_http_session(&peer).await.ok()?;
    session.set_read_timeout(Some(PATIENCE));
    let path = format!("{}/models", provider.endpoint.prefix);
    let mut request = RequestHeader::build("GET", path.as_bytes(), Some(4)).ok()?;
    request.insert_header("host", provider.endpoint.authority.as_str()).ok()?;
    request.insert_header("accept", "application/json").ok()?;
    request.insert_header("accept-encoding", "identity").ok()?;
    if let Pick::Use(_, secret) = provider.credentials.pick("", &[], Tick::now()) {
        authorize(&mut request, provider, &secret).ok()?;
    }
    for (name, value) in &provider.settings.headers {
        request.insert_header(name.clone(), value.clone()).ok()?;
    }
    session.write_request_header(Box::new(request)).await.ok()?;
    session.finish_request_body().await.ok()?;
    session.read_response_header().await.ok()?;
    if session.response_header()?.status.as_u16() != 200 {
        return None;
    }
    listed(&whole(&mut session).await?)
}

/// The models of a list as OpenAI gives it (API reference, «List models»), or of a bare one as Together does. An entry that is no
/// model, or whose name could be none, is passed over; `None` for what is no list.
fn listed(body: &[u8]) -> Option<Vec<String>> {
    let mut answer: Value = serde_json::from_slice(body).ok()?;
    let entries = if answer.is_array() { answer } else { answer.get_mut("data")?.take() };
    let Value::Array(entries) = entries else { return None };
    let id = |entry: &Value| Some(entry.get("id")?.as_str()?.to_owned());
    let mut models: Vec<String> = entries.iter().filter_map(id).filter(|id| is_sane(id)).collect();
    models.sort_unstable();
    models.dedup();
    models.truncate(MAX_MODELS);
    Some(models)
}

async fn whole(session: &mut HttpSession) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = session.read_response_body().await.ok()? {
        if body.len() + chunk.len() > MAX_BYTES {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

fn is_sane(id: &str) -> bool {
    (1..=256).contains(&id.len()) && !id.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_says_nothing() {
        for body in ["", "{}", "null", r#"{"data":{}}"#, r#"{"data":null}"#, "7"] {
            assert_eq!(listed(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn one_odd_entry_hides_no_other() {
        for odd in [r#"{"id":5}"#, r#"{"id":null}"#, "{}", r#""x""#, "null", r#"{"id":""}"#, r#"{"id":"a\nb"}"#] {
            for body in [
                format!(r#"{{"data":[{{"id":"b"}},{odd},{{"id":"a"}}]}}"#),
                format!(r#"[{{"id":"a"}},{odd},{{"id":"b"}}]"#),
            ] {
                assert_eq!(listed(body.as_bytes()).unwrap(), ["a", "b"], "{body}");
            }
        }
        assert_eq!(listed(br#"{"data":[]}"#).unwrap(), Vec::<String>::new());
    }
}
