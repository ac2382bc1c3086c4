//! What opens the connections that Marg needs for itself: to webhooks, to witnesses, to providers that are asked for their models.

use std::sync::LazyLock;

use pingora_core::connectors::http::Connector;

/// The one connector of the process. It trusts the system's authorities; they are read when it is first asked for, in a few
/// milliseconds, and take 400 KB. Nobody gives connections back to it, so it keeps none.
pub fn connector() -> &'static Connector {
    static SHARED: LazyLock<Connector> = LazyLock::new(|| Connector::new(None));
    &SHARED
}
