//! The Pingora services: the data plane and the admin side, until a signal ends them.

use std::net::SocketAddr;
use std::sync::Arc;

use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::listeners::{L4BufferSettings, ListenerConfig};
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::listening::Service;
use pingora_proxy::HttpProxy;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::admin::service::AdminApp;
use crate::assemble::core::Core;
use crate::assemble::descriptors::{self, Share};
use crate::assemble::doors::{Doors, Endings, Opening};
use crate::assemble::signals::Signals;
use crate::config::{Config, ServerConfig};
use crate::proxy::Front;
use crate::proxy::guard::{Door, Limits};

/// The most idle connections kept to all providers, for each worker thread. Too few of them doubled the cost of a request in
/// measurements, so this is above the concurrency that is expected.
const UPSTREAM_POOL: usize = 1024;

/// The fewest that are kept, however few descriptors there are.
const LEAST_POOL: usize = 8;

/// Serves until a signal ends the process; then ends the core. Returns whether every record reached the disk.
///
/// # Errors
/// When another process took an address in the meantime, or a service ended although nobody told it to.
pub fn serve(core: &Arc<Core>, doors: Doors) -> anyhow::Result<bool> {
    let served = run(core, doors);
    let synced = core.end();
    served.map(|()| synced)
}

fn run(core: &Arc<Core>, doors: Doors) -> anyhow::Result<()> {
    // A reload may have come already; what needs a restart is as it was at the start.
    let (config, identity) = (&core.first.config, core.first.tls.clone());
    let endings = Endings::new();
    doors.open()?;
    let addresses = doors.addresses();
    let Doors { data_plane: door, admin } = doors;
    let share = descriptors::share(config);
    let mut server = Server::new_with_opt_and_conf(None, configuration(&config.server, share));
    server.bootstrap();
    let service = data_plane(core, (config, share), listener(door.address, identity)?);
    let (service, served) = Opening::new(service, door, endings.clone());
    server.add_service(service);
    let mut listening = vec![served];
    if let Some(door) = admin {
        let mut service = Service::new("admin".to_owned(), AdminApp::new(core.admin_state()));
        service.threads = Some(1);
        service.add_tcp(&door.address.to_string());
        let (service, served) = Opening::new(service, door, endings.clone());
        server.add_service(service);
        listening.push(served);
    }
    let signals = core.entered(|| Signals::new(core.clone(), endings.clone()));
    core.announce(addresses, listening);
    server.run(RunArgs { shutdown_signal: Box::new(signals) });
    match endings.seen() {
        None => Ok(()),
        Some(name) => anyhow::bail!("the service `{name}` ended by a defect; the log says more"),
    }
}

fn data_plane(core: &Arc<Core>, (config, share): (&Config, Share), listener: ListenerConfig) -> Service<Door> {
    let front = Front::new(core.gateway.clone(), core.clone());
    let mut proxy = HttpProxy::new(front, Arc::new(configuration(&config.server, share)));
    let mut options = HttpServerOptions::default();
    options.h2c = config.server.h2c;
    options.h2_idle_timeout = Some(std::time::Duration::from_millis(config.server.keepalive_ms));
    proxy.server_options = Some(options);
    let mut http2 = default_h2_options();
    http2.max_header_list_size(largest_head(config.server.max_header_bytes));
    proxy.h2_options = Some(http2);
    proxy.handle_init_modules();
    let limits = Limits {
        connections: share.callers,
        header: std::time::Duration::from_millis(config.server.header_timeout_ms),
        keepalive: std::time::Duration::from_millis(config.server.keepalive_ms),
    };
    let mut service = Service::new("data plane".to_owned(), Door::new(proxy, limits));
    service.add_listener(listener);
    service
}

/// The largest head that is read over HTTP/2, where each field counts for 32 bytes more than it has (RFC 9113 section 6.5.2). What is
/// larger than `server.max_header_bytes` and fits is refused in Marg's words, what does not fit with a bare 431.
fn largest_head(max_header_bytes: usize) -> u32 {
    u32::try_from(max_header_bytes.saturating_mul(2)).unwrap_or(u32::MAX)
}

/// Where the data plane listens. Pingora would give each connection a read buffer of 64 KiB, most of what an idle one takes;
/// yet heads are read into a buffer of their own, and bodies by up to 64 KiB at a time, so that in clear text a second buffer
/// only costs a copy. TLS reads by the record, of at most 16 KiB (RFC 8446 section 5.1).
fn listener(address: SocketAddr, identity: Option<Arc<CertifiedKey>>) -> anyhow::Result<ListenerConfig> {
    let listener = ListenerConfig::tcp(address.to_string());
    let buffer = |read| L4BufferSettings::default().read(read);
    let Some(identity) = identity else { return Ok(listener.l4_buffer(buffer(0))) };
    // The files were read when the configuration was, and what they hold was checked; Pingora would panic over a fault.
    let mut settings =
        TlsSettings::intermediate("", "").map_err(|error| anyhow::anyhow!("server.tls cannot be used: {error}"))?;
    settings.set_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&identity))));
    settings.enable_h2();
    Ok(listener.tls(settings).l4_buffer(buffer(16 * 1024)))
}

fn configuration(server: &ServerConfig, share: Share) -> ServerConf {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if server.threads == 0 { cores } else { server.threads };
    ServerConf {
        threads,
        work_stealing: false,
        upstream_keepalive_pool_size: share
            .idle
            .checked_div(threads)
            .map_or(LEAST_POOL, |most| most.clamp(LEAST_POOL, UPSTREAM_POOL)),
        // Attempts are bounded by the plan and by the credentials; this only must not cut them short.
        max_retries: crate::route::MAX_TARGETS * 5,
        // Exchanges have ended before Pingora is told to stop (`signals`), so there is nothing to wait for.
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

impl Core {
    /// Waits until the exchanges that run have ended, or the deadline is over.
    pub async fn drained(&self) {
        self.gateway.drain();
        let limit = std::time::Duration::from_millis(self.config().server.drain_timeout_ms);
        let wait = async {
            while self.gateway.in_flight() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(limit, wait).await.is_err() {
            let left = self.gateway.in_flight();
            tracing::warn!(left, "the drain deadline is over; running exchanges are cut off");
        }
    }
}
