//! Ports of the demo on loopback: the documented ones, or free ones.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rand::Rng;

use crate::{
    args::PortChoice,
    site::{ForeignPorts, RolePorts},
};

/// First port of the proxies when the documented ports are taken.
const PROXIES_FROM: u16 = 16_000;
/// Free ports are looked for below those that the system gives to outgoing connections.
const AUTO_FROM: u16 = 20_000;
/// A demo takes free ports in blocks, and listens on the first of each as long as it runs, so that two demos on one
/// machine cannot choose the same.
const BLOCK: u16 = 128;
const BLOCKS: u16 = 93;

/// Where everything listens.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) roles: RolePorts,
    /// One for each service and one, the last, for the driver.
    pub(crate) proxies: Vec<ProxyPorts>,
    _held: Vec<TcpListener>,
}

/// The listeners of one proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProxyPorts {
    pub(crate) outbound: SocketAddr,
    pub(crate) inbound: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// The demo cannot have the ports that it needs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// Another process listens there.
    #[error(
        "port {port} for {role} is in use on 127.0.0.1: stop what listens there, or take free ports with --ports auto"
    )]
    InUse {
        port: u16,
        role: String,
        #[source]
        source: std::io::Error,
    },
    /// No free block was found.
    #[error("no {needed} free ports were found from {AUTO_FROM} up")]
    NoneFree { needed: usize },
}

impl Ports {
    /// Chooses ports for so many proxies and looks whether they are free; nothing is left listening on them.
    ///
    /// # Errors
    /// When a port is in use, or no free ones are found.
    pub(crate) fn choose(choice: PortChoice, proxies: &[&str]) -> Result<Self, PortError> {
        match choice {
            PortChoice::Default => Self::documented(proxies),
            PortChoice::Auto => Self::free(proxies.len()),
        }
    }

    fn documented(proxies: &[&str]) -> Result<Self, PortError> {
        let mut next = PROXIES_FROM;
        let mut ports = Vec::with_capacity(proxies.len());
        for name in proxies {
            let mut take = |what: &str| {
                let port = next;
                next = next.saturating_add(1);
                checked(port, &format!("the {what} listener of {name}'s proxy"))
            };
            ports.push(ProxyPorts {
                outbound: take("outbound")?,
                inbound: take("inbound")?,
                admin: take("admin")?,
            });
        }
        Ok(Self {
            roles: documented_roles()?,
            proxies: ports,
            _held: Vec::new(),
        })
    }

    fn free(proxies: usize) -> Result<Self, PortError> {
        let (found, held) = free(RolePorts::COUNT + 3 * proxies)?;
        let needed = found.len();
        let mut found = found.into_iter();
        let roles = roles(&mut found)?;
        let mut take = || found.next().ok_or(PortError::NoneFree { needed });
        Ok(Self {
            roles,
            proxies: (0..proxies)
                .map(|_| {
                    Ok(ProxyPorts {
                        outbound: take()?,
                        inbound: take()?,
                        admin: take()?,
                    })
                })
                .collect::<Result<_, PortError>>()?,
            _held: held,
        })
    }
}

/// Free ports for the roles alone; another process may take them before they are listened on.
///
/// # Errors
/// When they are not found.
pub(crate) fn free_roles() -> Result<RolePorts, PortError> {
    let (found, _held) = free(RolePorts::COUNT)?;
    roles(&mut found.into_iter())
}

fn roles(found: &mut impl Iterator<Item = SocketAddr>) -> Result<RolePorts, PortError> {
    let needed = RolePorts::COUNT;
    let mut take = || found.next().ok_or(PortError::NoneFree { needed });
    Ok(RolePorts {
        control: take()?,
        people: take()?,
        collector: take()?,
        postgres: take()?,
        http: take()?,
        collector_admin: Some(take()?),
        foreign: Some(ForeignPorts {
            otlp_grpc: take()?,
            otlp_http: take()?,
            als: take()?,
        }),
    })
}

/// So many free ports, which no other demo or simulation takes while the listeners are held.
///
/// # Errors
/// When they are not found.
pub(crate) fn free(needed: usize) -> Result<(Vec<SocketAddr>, Vec<TcpListener>), PortError> {
    let first = rand::rng().random_range(0..BLOCKS);
    let (mut held, mut found) = (Vec::new(), Vec::new());
    for step in 0..BLOCKS {
        if found.len() >= needed {
            break;
        }
        let block = AUTO_FROM + (first + step) % BLOCKS * BLOCK;
        let Ok(guard) = TcpListener::bind(loopback(block)) else {
            continue;
        };
        held.push(guard);
        found.extend(
            (block + 1..block + BLOCK)
                .map(loopback)
                .filter(|a| TcpListener::bind(a).is_ok()),
        );
    }
    if found.len() < needed {
        return Err(PortError::NoneFree { needed });
    }
    found.truncate(needed);
    Ok((found, held))
}

fn documented_roles() -> Result<RolePorts, PortError> {
    let ports = RolePorts::documented();
    for (address, role) in [
        (ports.control, "control"),
        (ports.people, "control's door for people"),
        (ports.collector, "the collector"),
        (ports.postgres, "query's PostgreSQL endpoint"),
        (ports.http, "query's HTTP endpoint"),
    ] {
        checked(address.port(), role)?;
    }
    if let Some(admin) = ports.collector_admin {
        checked(admin.port(), "the collector's metrics")?;
    }
    if let Some(foreign) = ports.foreign {
        checked(foreign.otlp_grpc.port(), "OTLP over gRPC")?;
        checked(foreign.otlp_http.port(), "OTLP over HTTP")?;
        checked(foreign.als.port(), "Envoy's access logs")?;
    }
    Ok(ports)
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn checked(port: u16, role: &str) -> Result<SocketAddr, PortError> {
    let address = loopback(port);
    TcpListener::bind(address).map_err(|source| PortError::InUse {
        port,
        role: role.to_owned(),
        source,
    })?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn two_demos_take_different_free_ports() {
        let all = |ports: &Ports| -> HashSet<SocketAddr> {
            let proxies = ports
                .proxies
                .iter()
                .flat_map(|p| [p.outbound, p.inbound, p.admin]);
            let (roles, foreign) = (&ports.roles, &ports.roles.foreign);
            proxies
                .chain([
                    roles.control,
                    roles.people,
                    roles.collector,
                    roles.postgres,
                    roles.http,
                ])
                .chain(roles.collector_admin)
                .chain(
                    foreign
                        .iter()
                        .flat_map(|f| [f.otlp_grpc, f.otlp_http, f.als]),
                )
                .collect()
        };
        let first = Ports::free(60).unwrap();
        let second = Ports::free(60).unwrap();
        assert_eq!(all(&first).len(), 189);
        assert!(all(&first).is_disjoint(&all(&second)));
    }

    #[test]
    fn a_port_in_use_is_named_with_what_to_do() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let message = checked(port, "control").unwrap_err().to_string();
        assert!(
            message.contains(&format!("port {port} for control is in use")),
            "{message}"
        );
        assert!(message.contains("--ports auto"), "{message}");
    }
}
