//! The Pingora services: the data plane and the admin side, until a signal ends them.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::listeners::{L4BufferSettings, ListenerConfig};
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::listening::Service;
use pingora_proxy::HttpProxy;

use crate::admin::service::AdminApp;
use crate::assemble::core::Core;
use crate::assemble::signals::Signals;
use crate::config::{Config, ServerConfig};
use crate::proxy::Front;
use crate::proxy::guard::{Door, Limits};

/// The most idle connections kept to all providers, for each worker thread. Too few of them doubled the cost of a request in
/// measurements, so this is above the concurrency that is expected.
const UPSTREAM_POOL: usize = 1024;

/// Checks that the addresses are free, because Pingora says so only by a panic.
///
/// # Errors
/// Which setting's address cannot be used, and why.
pub fn check_addresses(config: &Config) -> anyhow::Result<()> {
    let try_out = |setting: &str, address: SocketAddr| {
        TcpListener::bind(address).map(drop).with_context(|| format!("cannot listen on {address} ({setting})"))
    };
    try_out("server.listen", config.server.listen)?;
    if config.admin.enabled {
        try_out("admin.listen", config.admin.listen)?;
    }
    Ok(())
}

/// Serves until a signal ends the process; then ends the core. Returns whether every record reached the disk.
///
/// # Errors
/// When a certificate cannot be used.
pub fn serve(core: &Arc<Core>) -> anyhow::Result<bool> {
    let config = core.config();
    let mut server = Server::new_with_opt_and_conf(None, configuration(&config.server));
    server.bootstrap();
    server.add_service(data_plane(core, &config)?);
    if config.admin.enabled {
        let mut admin = Service::new("admin".to_owned(), AdminApp::new(core.admin_state()));
        admin.threads = Some(1);
        admin.add_tcp(&config.admin.listen.to_string());
        server.add_service(admin);
    }
    core.announce();
    server.run(RunArgs { shutdown_signal: Box::new(Signals::new(core.clone())) });
    Ok(core.end())
}

fn data_plane(core: &Arc<Core>, config: &Config) -> anyhow::Result<Service<Door>> {
    let front = Front::new(core.gateway.clone(), core.clone());
    let mut proxy = HttpProxy::new(front, Arc::new(configuration(&config.server)));
    let mut options = HttpServerOptions::default();
    options.h2c = config.server.h2c;
    options.h2_idle_timeout = Some(std::time::Duration::from_millis(config.server.keepalive_ms));
    proxy.server_options = Some(options);
    proxy.handle_init_modules();
    let limits = Limits {
        connections: config.server.max_connections,
        header: std::time::Duration::from_millis(config.server.header_timeout_ms),
        keepalive: std::time::Duration::from_millis(config.server.keepalive_ms),
    };
    let mut service = Service::new("data plane".to_owned(), Door::new(proxy, limits));
    service.add_listener(listener(config)?);
    Ok(service)
}

/// Where the data plane listens. Pingora would give each connection a read buffer of 64 KiB, most of what an idle one takes;
/// yet heads are read into a buffer of their own, and bodies by up to 64 KiB at a time, so that in clear text a second buffer
/// only costs a copy. TLS reads by the record, of at most 16 KiB (RFC 8446 section 5.1).
fn listener(config: &Config) -> anyhow::Result<ListenerConfig> {
    let listener = ListenerConfig::tcp(config.server.listen.to_string());
    let buffer = |read| L4BufferSettings::default().read(read);
    let Some(tls) = &config.server.tls else { return Ok(listener.l4_buffer(buffer(0))) };
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path in server.tls is not UTF-8");
    let mut settings = TlsSettings::intermediate(&path(&tls.certificate)?, &path(&tls.key)?)
        .map_err(|error| anyhow::anyhow!("server.tls cannot be used: {error}"))?;
    settings.enable_h2();
    Ok(listener.tls(settings).l4_buffer(buffer(16 * 1024)))
}

fn configuration(server: &ServerConfig) -> ServerConf {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ServerConf {
        threads: if server.threads == 0 { cores } else { server.threads },
        work_stealing: false,
        upstream_keepalive_pool_size: UPSTREAM_POOL,
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
