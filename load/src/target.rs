//! What is being measured: where it listens, how it is asked, which process it is.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::exchange::{Exchange, Meter, Tally};
use crate::request::Request;

/// A server under load.
#[derive(Clone, Debug)]
pub struct Target {
    /// `baseline` or `gateway`.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// The path before `/chat/completions`, as in `/v1`.
    pub base_path: String,
    /// The key that requests carry.
    pub token: String,
    /// Written before each model name, for gateways that choose the provider by it.
    pub model_prefix: String,
    /// The process, if its CPU time and memory are to be read.
    pub pid: Option<u32>,
}

impl Target {
    /// Opens a connection with TCP_NODELAY and a limit of 30 s on each read and write.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(stream)
    }
}

/// Asks once on an open connection and reads the whole answer; the outcome goes to `meter` and `tally`. Says whether the
/// connection can be used again.
///
/// # Errors
/// When the answer is not 200, is malformed, cut, late or incomplete.
pub fn ask(
    stream: &mut TcpStream,
    request: &Request,
    started_ns: u64,
    meter: &Meter,
    tally: &mut Tally,
) -> anyhow::Result<bool> {
    let mut exchange = Exchange::begin(request, started_ns);
    stream.write_all(&request.bytes)?;
    let mut buffer = [0; 16 * 1024];
    while !exchange.is_done() {
        match stream.read(&mut buffer) {
            Ok(0) => exchange.end_of_input()?,
            Ok(length) => exchange.feed(buffer.get(..length).unwrap_or(&[]), meter, tally)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!("no byte for 30 s"),
            Err(error) => return Err(error).context("read the answer"),
        }
    }
    exchange.finish(meter, tally)
}

/// An address of this machine on which nobody listens.
///
/// # Errors
/// When there is none.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}
