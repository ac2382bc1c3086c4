//! The built-in simulated provider.

use tokio::sync::watch;

/// A bound socket of the simulated provider.
pub struct Listener {
    socket: std::net::TcpListener,
    port: u16,
}

/// Binds a free port of 127.0.0.1.
///
/// # Errors
/// What the operating system said.
pub fn bind() -> std::io::Result<Listener> {
    let socket = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    Ok(Listener { socket, port })
}

impl Listener {
    /// Its base URL, such as `http://127.0.0.1:40123/v1`.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// Serves until `stop` turns true or its sender is gone.
    pub async fn serve(self, mut stop: watch::Receiver<bool>) {
        let _listening = self.socket;
        while !*stop.borrow_and_update() {
            if stop.changed().await.is_err() {
                return;
            }
        }
    }
}
