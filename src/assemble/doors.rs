//! The addresses of a gateway: taken before anything else, opened once there is something to serve, given up at no time
//! between.
//!
//! Pingora binds by itself only after everything has been started, tells neither a port that the system chose nor a
//! failure, and tells two sockets apart by the text of their address. Here each service gets a socket that listens already,
//! and whoever wants to know learns when it serves ([`Opening::new`]) and when it ends unasked ([`Endings`]).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use anyhow::Context;
use async_trait::async_trait;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use tokio::net::TcpSocket;
use tokio::sync::{oneshot, watch};

use crate::config::Config;

/// How many connections may wait to be accepted; the system has a bound of its own below that.
const BACKLOG: i32 = 65_535;

/// The addresses of both ports as they are: where the system was to choose a port, with the one that it chose.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Where applications connect.
    pub data_plane: SocketAddr,
    /// Where operators connect, if they may.
    pub admin: Option<SocketAddr>,
}

/// Both ports.
pub struct Doors {
    /// For applications.
    pub data_plane: Door,
    /// For operators, if they may connect.
    pub admin: Option<Door>,
}

/// A socket that has its address. Nobody can connect before [`Door::open`].
pub struct Door {
    setting: &'static str,
    /// Its address.
    pub address: SocketAddr,
    socket: TcpSocket,
}

impl Doors {
    /// Takes both addresses.
    ///
    /// # Errors
    /// Which setting's address cannot be used, and why.
    pub fn take(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            data_plane: Door::take("server.listen", config.server.listen)?,
            admin: config.admin.enabled.then(|| Door::take("admin.listen", config.admin.listen)).transpose()?,
        })
    }

    /// Where they are.
    pub fn addresses(&self) -> Addresses {
        Addresses { data_plane: self.data_plane.address, admin: self.admin.as_ref().map(|door| door.address) }
    }

    /// Opens both. Until then another process may have taken the same address, since connections that a predecessor left
    /// behind must not keep it; the first that listens has it.
    ///
    /// # Errors
    /// As for [`Doors::take`].
    pub fn open(&self) -> anyhow::Result<()> {
        self.data_plane.open()?;
        self.admin.as_ref().map_or(Ok(()), Door::open)
    }
}

impl Door {
    fn take(setting: &'static str, wanted: SocketAddr) -> anyhow::Result<Self> {
        let bound = || {
            let socket = if wanted.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(wanted)?;
            Ok::<_, std::io::Error>((socket.local_addr()?, socket))
        };
        let (address, socket) = bound().with_context(|| cannot(wanted, setting))?;
        Ok(Self { setting, address, socket })
    }

    fn open(&self) -> anyhow::Result<()> {
        rustix::net::listen(&self.socket, BACKLOG).with_context(|| cannot(self.address, self.setting))
    }
}

fn cannot(address: SocketAddr, setting: &str) -> String {
    format!("cannot listen on {address} ({setting})")
}

/// The names of services that ended although nobody told them to.
#[derive(Clone)]
pub struct Endings(Arc<watch::Sender<Option<String>>>);

impl Endings {
    /// None yet.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Waits for the first.
    pub async fn first(&self) -> String {
        let mut ended = self.0.subscribe();
        // This holds the sender, so it is never gone.
        ended.wait_for(Option::is_some).await.ok().and_then(|name| name.clone()).unwrap_or_default()
    }

    /// The first, if there is one.
    pub fn seen(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

/// A service behind its door.
pub struct Opening<S> {
    service: S,
    door: Option<Door>,
    endings: Endings,
    serves: Option<oneshot::Sender<()>>,
}

impl<S: Service> Opening<S> {
    /// Puts a service behind a door that is open; its only listener must be that of the door's address. The receiver hears
    /// when it accepts connections, or fails if it never does.
    pub fn new(service: S, door: Door, endings: Endings) -> (Self, oneshot::Receiver<()>) {
        let (serves, served) = oneshot::channel();
        (Self { service, door: Some(door), endings, serves: Some(serves) }, served)
    }
}

#[async_trait]
impl<S: Service> Service for Opening<S> {
    async fn start_service(&mut self, sockets: Option<ListenFds>, shutdown: ShutdownWatch, per_socket: usize) {
        let _watched =
            Watched { name: self.service.name().to_owned(), shutdown: shutdown.clone(), endings: self.endings.clone() };
        if let (Some(sockets), Some(door)) = (&sockets, self.door.take()) {
            // The service finds it there, and closes it at its end.
            sockets.lock().add(door.address.to_string(), door.socket.into_raw_fd());
        }
        let mut serving = pin!(self.service.start_service(sockets, shutdown, per_socket));
        // Taking over a socket that listens needs no waiting, so the service accepts as soon as it first waits.
        let waits = poll_fn(|context| Poll::Ready(serving.as_mut().poll(context).is_pending())).await;
        if waits {
            if let Some(serves) = self.serves.take() {
                let _nobody_waits_any_more = serves.send(());
            }
            serving.await;
        }
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.service.listen_addresses()
    }
}

/// Notes the end of a service, however it comes.
struct Watched {
    name: String,
    shutdown: ShutdownWatch,
    endings: Endings,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !*self.shutdown.borrow() {
            tracing::error!(service = self.name, "a service ended by a defect; the process ends");
            self.endings.0.send_replace(Some(std::mem::take(&mut self.name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn config(server: &str, admin: &str) -> Config {
        let mut config = Config::default();
        (config.server.listen, config.admin.listen) = (server.parse().unwrap(), admin.parse().unwrap());
        config
    }

    #[test]
    fn of_two_processes_that_take_an_address_only_the_first_opens_it() {
        let one = Doors::take(&config("127.0.0.1:0", "127.0.0.1:0")).unwrap();
        let Addresses { data_plane, admin } = one.addresses();
        let same = config(&data_plane.to_string(), &admin.unwrap().to_string());
        // Where the system lets the second take it, too, it cannot open it.
        let other = Doors::take(&same);
        one.open().unwrap();
        let error = format!("{:#}", other.and_then(|doors| doors.open()).unwrap_err());
        assert!(error.starts_with(&format!("cannot listen on {data_plane} (server.listen): ")), "{error}");
        assert!(Doors::take(&same).is_err());
    }

    #[test]
    fn nobody_connects_before_a_door_is_open() {
        let doors = Doors::take(&config("127.0.0.1:0", "127.0.0.1:0")).unwrap();
        let Addresses { data_plane, admin } = doors.addresses();
        assert!(data_plane.port() != 0 && admin.unwrap().port() != 0 && data_plane != admin.unwrap());
        assert!(TcpStream::connect(data_plane).is_err());
        doors.open().unwrap();
        TcpStream::connect(data_plane).unwrap();
        TcpStream::connect(admin.unwrap()).unwrap();
    }

    #[test]
    fn a_disabled_admin_side_takes_no_address() {
        let mut config = config("127.0.0.1:0", "127.0.0.1:0");
        config.admin.enabled = false;
        assert_eq!(Doors::take(&config).unwrap().addresses().admin, None);
    }

    #[test]
    fn an_address_of_which_another_is_a_mapped_form_is_opened_once() {
        let mut config = config("127.0.0.1:0", "127.0.0.1:0");
        config.admin.enabled = false;
        let one = Doors::take(&config).unwrap();
        config.server.listen = format!("[::ffff:127.0.0.1]:{}", one.addresses().data_plane.port()).parse().unwrap();
        one.open().unwrap();
        assert!(Doors::take(&config).and_then(|doors| doors.open()).is_err());
    }

    /// A service that ends as it is told to.
    struct Ends(fn());

    #[async_trait]
    impl Service for Ends {
        async fn start_service(&mut self, _: Option<ListenFds>, mut shutdown: ShutdownWatch, _: usize) {
            (self.0)();
            drop(shutdown.wait_for(|stopping| *stopping).await);
        }

        fn name(&self) -> &str {
            "the service"
        }
    }

    fn behind_a_door(service: Ends) -> (Opening<Ends>, oneshot::Receiver<()>, Endings) {
        let (door, endings) = (Door::take("server.listen", "127.0.0.1:0".parse().unwrap()).unwrap(), Endings::new());
        let (opening, served) = Opening::new(service, door, endings.clone());
        (opening, served, endings)
    }

    #[tokio::test]
    async fn a_service_that_panics_is_named_and_never_said_to_serve() {
        let (mut opening, served, endings) = behind_a_door(Ends(|| panic!("a defect")));
        let (_stop, stopped) = watch::channel(false);
        let task = crate::telemetry::task::spawn("service", async move {
            opening.start_service(None, stopped, 1).await;
        });
        assert!(task.await.is_err());
        assert!(served.await.is_err());
        assert_eq!(endings.first().await, "the service");
    }

    #[tokio::test]
    async fn a_service_that_is_told_to_end_is_not_named() {
        let (mut opening, served, endings) = behind_a_door(Ends(|| ()));
        let (stop, stopped) = watch::channel(false);
        let task = crate::telemetry::task::spawn("service", async move {
            opening.start_service(None, stopped, 1).await;
        });
        served.await.unwrap();
        stop.send_replace(true);
        task.await.unwrap();
        assert_eq!(endings.seen(), None);
    }
}
