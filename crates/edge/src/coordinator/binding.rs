//! Takes an edge's addresses: opens them, or takes those that somebody else opened. Never serves anybody.

use super::Edge;
use crate::{
    config::{EdgeConfig, EdgeError},
    feed::ControlUrl,
    geo::{Geo, Places},
    handover::{Predecessor, Sockets},
    snapshot::Log,
    worker,
};
use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
};

impl Edge {
    pub fn bind(config: EdgeConfig) -> Result<Self, EdgeError> {
        Self::bind_on(config, Sockets::default())
    }

    /// On sockets that somebody else opened, where they are those that the configuration asks for.
    pub fn bind_on(config: EdgeConfig, given: Sockets) -> Result<Self, EdgeError> {
        Self::made(config, given, None)
    }

    /// On the sockets of the edge that runs with this data folder, which goes when this one serves. `Err`: the
    /// configuration, for nobody runs there.
    pub fn take_over(config: EdgeConfig) -> Result<Result<Self, EdgeConfig>, EdgeError> {
        let Some((predecessor, sockets, owed_ns)) = Predecessor::ask(&config.data_dir).map_err(EdgeError::Handover)?
        else {
            return Ok(Err(config));
        };
        Self::made(config, sockets, Some((predecessor, owed_ns))).map(Ok)
    }

    fn made(
        mut config: EdgeConfig,
        given: Sockets,
        predecessor: Option<(Predecessor, HashMap<Box<str>, u64>)>,
    ) -> Result<Self, EdgeError> {
        if !config.admin.ip().is_loopback() {
            return Err(EdgeError::AdminExposed(config.admin));
        }
        if config.workers == 0 {
            return Err(EdgeError::NoWorkers);
        }
        let places = Places::of(config.geo_database.as_deref().map(Geo::open).transpose()?);
        let urls = config.control_urls.iter();
        let urls =
            urls.map(|url| ControlUrl::parse(url, config.control_authorities.as_deref())).collect::<Result<_, _>>()?;
        let (log, table) = Log::open(&config.data_dir)?;
        let at = |address| move |source| EdgeError::Listen { address, source };
        // A queue that nobody takes from would be worse than a thread too many.
        config.workers = config.workers.max(given.plain.len()).max(given.tls.len());
        let (address, plain) = listen(config.listen, config.workers, given.plain).map_err(at(config.listen))?;
        let (tls_address, tls) = match config.listen_tls {
            Some(wanted) => {
                let (address, listeners) = listen(wanted, config.workers, given.tls).map_err(at(wanted))?;
                (Some(address), listeners)
            }
            None => (None, Vec::new()),
        };
        let admin = match given.admin.filter(|given| is_at(given, config.admin)) {
            Some(given) => given,
            None => StdListener::bind(config.admin).map_err(at(config.admin))?,
        };
        admin.set_nonblocking(true).map_err(at(config.admin))?;
        let admin_address = admin.local_addr().map_err(at(config.admin))?;
        let sockets = Sockets { plain, tls, admin: None };
        Ok(Self {
            config,
            urls,
            sockets,
            admin,
            predecessor,
            ready: None,
            left: None,
            places,
            address,
            tls_address,
            admin_address,
            log,
            table,
        })
    }

    /// Called once, when the edge serves as well as it can.
    pub fn when_ready(mut self, ready: impl FnOnce() + Send + 'static) -> Self {
        self.ready = Some(Box::new(ready));
        self
    }

    /// Called once, when another process serves and this one goes with its last connection.
    pub fn when_left(mut self, left: impl FnOnce() + Send + 'static) -> Self {
        self.left = Some(Box::new(left));
        self
    }

    /// Where clients come in, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same over TLS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }
}

/// A listener a worker, all at one address, which is returned: port 0 takes a free one, or that of those given.
fn listen(wanted: SocketAddr, workers: usize, given: Vec<StdListener>) -> io::Result<(SocketAddr, Vec<StdListener>)> {
    let mut listeners: Vec<_> = given.into_iter().filter(|given| is_at(given, wanted)).collect();
    let own = listeners.is_empty();
    if own {
        listeners.push(worker::listen(wanted)?);
    }
    let address = listeners[0].local_addr()?;
    for number in listeners.len()..workers {
        // Beside a socket of somebody else's no second one can be opened: its queue is shared instead.
        let next = if own { worker::listen(address)? } else { listeners[number % listeners.len()].try_clone()? };
        listeners.push(next);
    }
    for listener in &listeners {
        listener.set_nonblocking(true)?;
    }
    Ok((address, listeners))
}

fn is_at(listener: &StdListener, wanted: SocketAddr) -> bool {
    listener.local_addr().is_ok_and(|at| at == wanted || (wanted.port() == 0 && at.ip() == wanted.ip()))
}
