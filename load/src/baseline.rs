//! The yardstick: Pingora with nothing but `upstream_peer`, tuned as Marg is (no work stealing, a large upstream pool).

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

/// Above any concurrency of the scenarios: a pool that is too small doubles the CPU per request.
const POOL: usize = 4096;

/// Serves until the process is ended.
pub fn serve(listen: SocketAddr, upstream: SocketAddr, threads: usize) -> ! {
    let conf =
        ServerConf { threads, work_stealing: false, upstream_keepalive_pool_size: POOL, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let configuration = Arc::clone(&server.configuration);
    let mut service = http_proxy_service(&configuration, Forward { upstream });
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run_forever()
}

struct Forward {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}
