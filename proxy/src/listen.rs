//! Listening sockets, bound before anything else begins, one for each worker.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that the kernel holds until a worker takes them.
const BACKLOG: i32 = 1_024;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address}: free it, or choose another with the key {key}: {source}")]
pub struct ListenError {
    /// The configuration key.
    pub key: &'static str,
    /// Its value.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// Binds `address` once for each of `workers`. The kernel spreads connections over them.
///
/// # Errors
/// [`ListenError`] when the address is taken, by whomever, or cannot be used.
pub(crate) fn bind(
    key: &'static str,
    address: SocketAddr,
    workers: u16,
) -> Result<Vec<TcpListener>, ListenError> {
    bind_all(address, workers).map_err(|source| ListenError {
        key,
        address,
        source,
    })
}

fn bind_all(address: SocketAddr, workers: u16) -> io::Result<Vec<TcpListener>> {
    // The port can be shared only among sockets that all ask for it, so another proxy of the same
    // user could join in unnoticed. A socket that does not share finds out first.
    let alone = socket(address, false)?;
    if workers == 1 {
        return Ok(vec![listening(alone)?]);
    }
    let address = alone.local_addr()?.as_socket().unwrap_or(address);
    drop(alone);
    (0..workers)
        .map(|_| listening(socket(address, true)?))
        .collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn listening(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn several_workers_share_one_port() {
        let listeners = bind("inbound_listen", any(), 3).unwrap();
        let ports: std::collections::BTreeSet<_> = listeners
            .iter()
            .map(|l| l.local_addr().unwrap().port())
            .collect();
        assert_eq!((listeners.len(), ports.len()), (3, 1));
    }

    #[test]
    fn a_port_in_use_is_refused_even_when_its_user_shares_it() {
        for workers in [1, 2] {
            let held = bind("inbound_listen", any(), workers).unwrap();
            let address = held[0].local_addr().unwrap();
            for again in [1, 2] {
                let message = bind("admin_listen", address, again)
                    .unwrap_err()
                    .to_string();
                assert!(message.contains(&address.to_string()), "{message}");
                assert!(message.contains("admin_listen"), "{message}");
            }
        }
    }
}
