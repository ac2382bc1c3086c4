//! The closed loop: many connections on one runtime, each with one exchange at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::now_ns;
use crate::exchange::{Exchange, Meter, Tally};
use crate::request::Request;
use crate::target::Target;

/// How long an exchange may go on after the end of the window before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `connections` loops, begun over `ramp_ms`, until the meter says stop.
pub async fn run(
    target: &Target,
    request: &Request,
    meter: &Arc<Meter>,
    (connections, ramp_ms): (usize, u64),
) -> Tally {
    let mut loops = JoinSet::new();
    for index in 0..connections {
        let (address, request, meter) = (target.address, request.clone(), Arc::clone(meter));
        let offset = Duration::from_millis(ramp_ms * index as u64 / connections.max(1) as u64);
        loops.spawn(async move {
            tokio::time::sleep(offset).await;
            let mut tally = Tally::default();
            ask_on_and_on(address, &request, &meter, &mut tally).await;
            tally
        });
    }
    let mut all = Tally::default();
    while !loops.is_empty() {
        // Looked at before the waiting: what is set during it has its full patience in the next turn.
        let is_stopping = meter.is_stopping();
        let patience = if is_stopping { PATIENCE } else { Duration::from_millis(100) };
        match timeout(patience, loops.join_next()).await {
            Ok(Some(Ok(tally))) => all.merge(&tally),
            Ok(Some(Err(error))) => all.fail(&anyhow!(error), meter),
            Ok(None) => break,
            Err(_) if is_stopping => {
                all.fail(&anyhow!("{} exchanges hung for {PATIENCE:?} after the end", loops.len()), meter);
                loops.shutdown().await;
            }
            Err(_) => {}
        }
    }
    all
}

async fn ask_on_and_on(address: SocketAddr, request: &Request, meter: &Meter, tally: &mut Tally) {
    let mut buffer = vec![0; 16 * 1024];
    let mut stream = None;
    while !meter.is_stopping() {
        match ask(&mut stream, address, request, &mut buffer, (meter, tally)).await {
            Ok(true) => {}
            Ok(false) => stream = None,
            Err(error) => {
                tally.fail(&error, meter);
                stream = None;
                // A target that refuses everything must not turn the load into a loop of refusals.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn ask(
    stream: &mut Option<TcpStream>,
    address: SocketAddr,
    request: &Request,
    buffer: &mut [u8],
    (meter, tally): (&Meter, &mut Tally),
) -> anyhow::Result<bool> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let opened = TcpStream::connect(address).await.context("connect")?;
            opened.set_nodelay(true)?;
            stream.insert(opened)
        }
    };
    let mut exchange = Exchange::begin(request, now_ns());
    stream.write_all(&request.bytes).await.context("send the request")?;
    while !exchange.is_done() {
        match stream.read(buffer).await.context("read the answer")? {
            0 => exchange.end_of_input()?,
            length => exchange.feed(buffer.get(..length).unwrap_or(&[]), meter, tally)?,
        }
    }
    exchange.finish(meter, tally)
}
