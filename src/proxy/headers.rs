//! Headers on both legs: what a provider is told, and what a caller is told.

use http::HeaderName;
use http::header::{self, HeaderMap};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::dialect::naming::{path_for, query_for};
use crate::dialect::{self, Operation};
use crate::error::{Error, Kind, Result};
use crate::pipeline::attempt::retry_after_alone;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::relay::Framing;
use crate::provider::Provider;
use crate::provider::config::Auth;
use crate::unit::clock::Timestamp;
use crate::unit::secret::Secret;

/// Whether a caller's header is kept from providers: its credentials, what describes its connection, what would choose another
/// account, what would make the answer unreadable here or the request another one than was judged, and `origin` and `referer`, which
/// say where in a browser it comes from. `expect` is answered by Marg. (A `match`, because the compiler
/// finds a name in it by its length; a list is gone through whole for each header.)
fn is_kept_from_providers(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "authorization"
            | "x-api-key"
            | "api-key"
            | "x-goog-api-key"
            | "proxy-authorization"
            | "cookie"
            | "expect"
            | "accept-encoding"
            | "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-forwarded-prefix"
            | "x-real-ip"
            | "via"
            | "cf-connecting-ip"
            | "true-client-ip"
            | "openai-organization"
            | "openai-project"
            | "content-length"
            | "transfer-encoding"
            | "te"
            | "trailer"
            | "upgrade"
            | "origin"
            | "referer"
            | "x-http-method"
            | "x-http-method-override"
            | "x-method-override"
            | "x-original-url"
            | "x-rewrite-url"
    ) || name.as_str().starts_with("x-marg-")
}

/// Whether a header asks for a part of what there is; a part of an answer that Marg reads would be none.
fn asks_for_a_part(name: &HeaderName) -> bool {
    *name == header::RANGE || *name == header::IF_RANGE
}

/// How the names of headers begin that are kept from callers.
///
/// *Sources*, for those that proxies obey: `X-Accel-Redirect` and its kin,
/// <https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_ignore_headers>; `X-Reproxy-URL` of Perlbal;
/// `X-LiteSpeed-Location`, <https://docs.litespeedtech.com/lsws/cp/config/internal-redirect/>;
/// `x-envoy-immediate-health-check-fail`, <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter>.
const KEPT_BEGINNINGS: [&str; 8] =
    ["x-marg-", "x-kavach-", "x-forwarded-", "x-accel-", "x-reproxy-", "x-litespeed-", "x-envoy-", "access-control-"];

/// Whether a provider's header is kept from callers: cookies, what describes the connection or the account, redirects, what only
/// Marg may say, and what a proxy in front of Marg or a browser would obey, as it was Marg that they asked. `x-should-retry` may
/// be said by both: like `retry-after`, it is a part of an error.
fn is_kept_from_callers(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "set-cookie"
            | "alt-svc"
            | "strict-transport-security"
            | "location"
            | "content-location"
            | "refresh"
            | "openai-organization"
            | "openai-project"
            | "server"
            | "via"
            | "cf-ray"
            | "cf-cache-status"
            | "report-to"
            | "nel"
            | "www-authenticate"
            | "link"
            | "x-request-id"
            | "keep-alive"
            | "upgrade"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "forwarded"
            | "x-real-ip"
            | "x-served-by"
            | "x-sendfile"
            | "x-sendfile-temporary"
            | "x-lighttpd-send-file"
            | "x-lighttpd-send-tempfile"
            | "surrogate-control"
            | "surrogate-key"
            | "cdn-cache-control"
            | "cloudflare-cdn-cache-control"
            | "clear-site-data"
            | "service-worker-allowed"
            | "public-key-pins"
            | "reporting-endpoints"
    ) || KEPT_BEGINNINGS.iter().any(|begin| name.as_str().starts_with(begin))
}

/// What a provider's `connection` names beside, which is for that connection only (RFC 9110 section 7.6.1). What frames the body
/// is none of it.
fn is_named(connection: &[String], name: &HeaderName) -> bool {
    connection.iter().any(|named| named == name.as_str())
        && ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONTENT_TYPE, header::CONTENT_ENCODING]
            .contains(name)
}

/// The names in a head's `connection`, in small letters; nearly always none.
fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !matches!(&**name, "" | "close" | "keep-alive")).collect()
}

/// Whether a request asks for an answer only if something has changed, so that 304 answers it (RFC 9110 section 13.1).
pub fn is_conditional(request: &RequestHeader) -> bool {
    matches!(request.method, http::Method::GET | http::Method::HEAD)
        && (request.headers.contains_key(header::IF_NONE_MATCH)
            || request.headers.contains_key(header::IF_MODIFIED_SINCE))
}

/// Refuses calls that would go on in another protocol than HTTP. Upgrades to HTTP/2 in clear text (`h2c`) are merely ignored, as
/// RFC 9110 section 7.8 allows: their callers go on in HTTP/1.1.
///
/// # Errors
/// `InvalidRequest`.
pub fn refuse_upgrade(headers: &HeaderMap) -> Result<()> {
    let mut asked = headers.get_all(header::UPGRADE).iter();
    if asked.any(|value| memchr::memmem::find(&value.as_bytes().to_ascii_lowercase(), b"websocket").is_some()) {
        return Err(Error::new(
            Kind::InvalidRequest,
            "WebSockets are not passed through; use the HTTP form of this endpoint, with `stream: true` for events.",
        ));
    }
    Ok(())
}

/// Refuses bodies that are compressed: nothing could be read off them.
///
/// # Errors
/// `InvalidRequest`.
pub fn refuse_coding(headers: &HeaderMap) -> Result<()> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let is_plain = |value: &http::HeaderValue| {
        let coding = value.as_bytes().trim_ascii();
        coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
    };
    if codings.all(is_plain) {
        return Ok(());
    }
    let text =
        "The request's body is encoded (`content-encoding`), and this gateway reads plain ones only; send it without.";
    Err(Error::new(Kind::InvalidRequest, text))
}

/// What the caller calls its body.
///
/// # Errors
/// `InvalidRequest` if it calls it two things: Marg would read it as the one, and a provider as the other.
pub fn content_type(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut all = headers.get_all(header::CONTENT_TYPE).iter();
    match (all.next(), all.next()) {
        (_, Some(_)) => Err(Error::new(Kind::InvalidRequest, "A request has one `content-type`.")),
        (first, None) => Ok(first.and_then(|value| value.to_str().ok())),
    }
}

/// How the headers of a provider's own limits begin: they tell of the account behind Marg, which is not this caller's.
const LIMITS_OF_PROVIDERS: [&str; 2] = ["x-ratelimit-", "anthropic-ratelimit-"];

/// Turns the caller's head into one for the current target.
pub fn address(
    from: &RequestHeader,
    request: &mut RequestHeader,
    exchange: &Exchange,
    body_bytes: usize,
) -> pingora_error::Result<()> {
    let (Some(current), Some(place)) = (&exchange.current, &exchange.place) else { return Ok(()) };
    let provider = &current.step.provider;
    let model = current.step.model.as_str();
    let query = from.uri.query().map(|query| format!("?{}", query_for(query, model))).unwrap_or_default();
    let path = format!("{}{}{query}", provider.endpoint.prefix, path_for(place, model));
    request.set_raw_path(path.as_bytes())?;
    strip(request, place.operation == Operation::Passthrough);
    request.insert_header(header::HOST, provider.endpoint.authority.as_str())?;
    request.insert_header("x-request-id", exchange.record.id.to_string())?;
    request.insert_header(header::ACCEPT_ENCODING, "identity")?;
    if matches!(place.operation, Operation::Chat | Operation::Completions | Operation::Embeddings) {
        // Such a body is JSON whatever the caller called it; providers insist on the word.
        request.insert_header(header::CONTENT_TYPE, "application/json")?;
    }
    let has_framing = |name| from.headers.contains_key(name);
    if body_bytes > 0 || has_framing(header::CONTENT_LENGTH) || has_framing(header::TRANSFER_ENCODING) {
        request.insert_header(header::CONTENT_LENGTH, body_bytes)?;
    }
    if let Some((_, secret)) = &current.credential {
        authorize(request, provider, secret)?;
    }
    for (name, value) in &provider.settings.headers {
        request.insert_header(name.clone(), value.clone())?;
    }
    if let Some(name) = exchange.live.permits.header() {
        request.remove_header(name);
        if let Some(permit) = exchange.papers.as_ref().and_then(|papers| papers.upstream.clone()) {
            request.insert_header(name.clone(), permit)?;
        }
    }
    Ok(())
}

/// Adds a provider's credential, in the way that it wants it.
pub fn authorize(request: &mut RequestHeader, provider: &Provider, secret: &Secret) -> pingora_error::Result<()> {
    let (name, value) = match provider.settings.auth {
        Auth::Bearer => ("authorization", format!("Bearer {}", secret.expose())),
        Auth::ApiKey => ("api-key", secret.expose().to_owned()),
        Auth::XApiKey => ("x-api-key", secret.expose().to_owned()),
        Auth::XGoogApiKey => ("x-goog-api-key", secret.expose().to_owned()),
        Auth::None => return Ok(()),
    };
    request.insert_header(name, value)
}

fn strip(request: &mut RequestHeader, passes: bool) {
    for name in listed(&request.headers, |name| is_kept_from_providers(name) || (!passes && asks_for_a_part(name))) {
        request.remove_header(&name);
    }
}

/// The names in a head that fit.
fn listed(headers: &HeaderMap, fits: impl Fn(&HeaderName) -> bool) -> Vec<HeaderName> {
    headers.keys().filter(|name| fits(name)).cloned().collect()
}

/// Says which exchange an answer belongs to, how its limits stand and what the gate said; the same on Marg's own answers.
pub fn name_exchange(response: &mut ResponseHeader, exchange: &Exchange) -> pingora_error::Result<()> {
    response.insert_header("x-request-id", exchange.request_id())?;
    response.insert_header("x-marg-exchange", exchange.record.id.to_string())?;
    if exchange.gateway.audit.is_kept() {
        response.insert_header("x-marg-receipt", exchange.record.id.to_string())?;
    }
    for (name, value) in exchange.limit_headers() {
        response.insert_header(name, value)?;
    }
    for (name, value) in exchange.gate_headers() {
        response.insert_header(name, value)?;
    }
    Ok(())
}

/// The names in a provider's head that are not for the caller: by what they are, or by what their values give away.
fn kept_back(headers: &HeaderMap, exchange: &Exchange) -> Vec<HeaderName> {
    let limited = exchange.rates.is_some();
    let permits = exchange.live.permits.header();
    let connection = named_by_connection(headers);
    let mut kept = listed(headers, |name| {
        is_kept_from_callers(name)
            || is_named(&connection, name)
            || permits == Some(name)
            || (limited && LIMITS_OF_PROVIDERS.iter().any(|begin| name.as_str().starts_with(begin)))
    });
    // What says where the body ends is a number, or a word of HTTP's own.
    let frames = |name: &HeaderName| [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name);
    let betraying = headers.iter().filter(|(name, value)| !frames(name) && betrays(value, exchange));
    kept.extend(betraying.map(|(name, _)| name.clone()));
    kept
}

/// Whether a value gives away a secret or the address of the provider that is asked.
fn betrays(value: &http::HeaderValue, exchange: &Exchange) -> bool {
    exchange.current.as_ref().is_some_and(|current| {
        let credential = current.credential.as_ref().map(|(_, secret)| secret);
        current.step.provider.betrays(credential, value.as_bytes())
    })
}

/// Takes out of a provider's trailers what would not be for the caller as a header.
pub fn sign_trailers(trailers: &mut HeaderMap, exchange: &Exchange) {
    for name in kept_back(trailers, exchange) {
        trailers.remove(name);
    }
}

/// Turns a provider's head into one for the caller.
pub fn sign(
    response: &mut ResponseHeader,
    exchange: &Exchange,
    framing: Framing,
    bodyless: bool,
) -> pingora_error::Result<()> {
    let theirs = response.headers.get("x-request-id").filter(|id| !betrays(id, exchange)).cloned();
    for name in kept_back(&response.headers, exchange) {
        response.remove_header(&name);
    }
    response.set_status(framing.status)?;
    // The provider's words for its status need not fit the one that is sent on.
    response.set_reason_phrase(None)?;
    if framing.length_changes {
        response.remove_header(&header::CONTENT_LENGTH);
        response.remove_header(&header::ETAG);
    }
    if framing.rewritten || framing.unpacked {
        response.remove_header(&header::CONTENT_ENCODING);
    }
    if framing.rewritten && !bodyless {
        response.insert_header(header::CONTENT_TYPE, "application/json")?;
    }
    if framing.event_stream {
        // nginx and others in front buffer event streams unless they are told not to.
        response.insert_header("x-accel-buffering", "no")?;
        response.insert_header(header::CACHE_CONTROL, "no-cache")?;
    }
    tell_delay(response)?;
    if let Some(id) = theirs {
        response.insert_header("x-marg-upstream-request-id", id)?;
    }
    name_exchange(response, exchange)?;
    if let Some(provider) = &exchange.record.provider {
        response.insert_header("x-marg-provider", &**provider)?;
    }
    response.insert_header("x-marg-attempts", exchange.attempts_made() + 1)?;
    if let Some(reason) = &exchange.record.reason {
        response.insert_header("x-marg-reason", reason.as_str())?;
    }
    if let (Some(name), Some(papers)) = (exchange.live.permits.header(), &exchange.papers)
        && let Some(permit) = &papers.caller
    {
        response.insert_header(name.clone(), permit.clone())?;
    }
    Ok(())
}

/// Puts a provider's `retry-after` into whole seconds, as every SDK reads them; what says nothing is taken out.
fn tell_delay(response: &mut ResponseHeader) -> pingora_error::Result<()> {
    if response.headers.contains_key(header::RETRY_AFTER) {
        match retry_after_alone(&response.headers, Timestamp::now()) {
            Some(delay) => response.insert_header(header::RETRY_AFTER, delay.as_millis().div_ceil(1000).to_string())?,
            None => drop(response.remove_header(&header::RETRY_AFTER)),
        }
    }
    let is_number = |value: &http::HeaderValue| value.to_str().is_ok_and(|text| text.trim().parse::<u64>().is_ok());
    if response.headers.get("retry-after-ms").is_some_and(|value| !is_number(value)) {
        response.remove_header("retry-after-ms");
    }
    Ok(())
}

/// The value of `allow` for a path that knows other methods (RFC 9110 section 15.5.6).
pub fn allowed(session: &Session) -> String {
    dialect::allowed_methods(session.req_header().uri.path()).unwrap_or("GET, POST").to_owned()
}
