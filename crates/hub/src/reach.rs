//! How far inside a server may lead.
//!
//! Users may name a server of their own network or machine. A server that leads on to another, by a redirect or by
//! naming where tokens are had, may not lead further inside than it lies itself: or it would have us ask, from within,
//! what it cannot ask from outside. A name does not tell where it lies, so what counts are the addresses that it resolves
//! to at that moment, and the connection goes to these: a name that means something else a moment later gains nothing.
//!
//! Where a proxy resolves the names, it has to hold this itself.

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use url::{Host, Url};

/// What errors say of a server that leads too far inside.
pub(crate) const TOO_FAR_INSIDE: &str = "it leads to an address inside this network or of this machine";

/// Where an address lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Reach {
    /// In the network of everybody.
    Public,
    /// In a network of its owner's (RFC 1918, RFC 6598, RFC 4193).
    Private,
    /// On this machine, or on its link, where clouds keep their secrets.
    Machine,
}

impl Reach {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        let [first, second, ..] = address.octets();
        let is_shared = first == 100 && second & 0xc0 == 64;
        if first == 0
            || address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast()
        {
            Self::Machine
        } else if address.is_private() || is_shared {
            Self::Private
        } else {
            Self::Public
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let [first, second, third, .., high, low] = address.segments();
        let v4 = |high: u16, low: u16| Self::of_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
        match address.segments() {
            // Unspecified and loopback.
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Self::Machine,
            // IPv4 addresses in the form of IPv6 (RFC 4291, section 2.5.5), behind a translator (RFC 6052), in 6to4
            // (RFC 3056).
            [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, ..] => v4(high, low),
            [0x2002, ..] => v4(second, third),
            _ if address.is_unicast_link_local() || address.is_multicast() => Self::Machine,
            // Unique local (RFC 4193), and the site-local ones before them.
            _ if address.is_unique_local() || first & 0xffc0 == 0xfec0 => Self::Private,
            _ => Self::Public,
        }
    }

    /// Of an address that is written out; `None` for a name that has to be looked up.
    fn written(url: &Url) -> Option<Self> {
        match url.host()? {
            Host::Ipv4(address) => Some(Self::of_v4(address)),
            Host::Ipv6(address) => Some(Self::of_v6(address)),
            Host::Domain(name) => {
                let name = name.trim_end_matches('.');
                (name == "localhost" || name.ends_with(".localhost")).then_some(Self::Machine)
            }
        }
    }
}

type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Resolves names, and sees to it that none that a server led to lies too far inside.
pub(crate) struct Guard {
    look_up: Box<LookUp>,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    /// Where names lay when they were looked up last.
    found: BTreeMap<String, Reach>,
    /// How far inside those may lie that a server led to.
    bounds: BTreeMap<String, Reach>,
}

impl Guard {
    /// One that asks the system.
    pub(crate) fn new() -> Self {
        Self::with(|name| Ok((name, 0).to_socket_addrs()?.collect()))
    }

    fn with(look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self { look_up: Box::new(look_up), names: Mutex::default() }
    }

    /// Allows that the servers at `chain`, each of which led to the next, lead to `to`, as far as that can be told
    /// before its name is looked up.
    pub(crate) fn lead<'u>(&self, chain: impl IntoIterator<Item = &'u Url>, to: &Url) -> Result<(), &'static str> {
        let mut names = self.names();
        let reach = |url: &Url| {
            // What a proxy looked up counts as public.
            let found = || names.found.get(url.host_str()?).copied();
            Reach::written(url).or_else(found).unwrap_or(Reach::Public)
        };
        let bound = chain.into_iter().map(reach).min().unwrap_or(Reach::Public);
        match (Reach::written(to), to.host_str()) {
            (Some(reach), _) if reach > bound => Err(TOO_FAR_INSIDE),
            (None, Some(name)) => {
                let known = names.bounds.entry(name.to_owned()).or_insert(bound);
                *known = bound.min(*known);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The addresses of a name that may be connected to.
    fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let mut addresses = (self.look_up)(name)?;
        let mut names = self.names();
        if let Some(bound) = names.bounds.get(name).copied() {
            addresses.retain(|address| Reach::of(address.ip()) <= bound);
            if addresses.is_empty() {
                return Err(io::Error::other(TOO_FAR_INSIDE));
            }
        }
        if let Some(reach) = addresses.iter().map(|address| Reach::of(address.ip())).min() {
            names.found.insert(name.to_owned(), reach);
        }
        Ok(addresses)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        // Whoever panicked left whole entries.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for Guard {
    /// Each client has a thread for its one request at a time, so looking up may hold that thread.
    fn resolve(&self, name: Name) -> Resolving {
        let addresses = self.addresses(name.as_str());
        Box::pin(std::future::ready(match addresses {
            Ok(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
            Err(error) => Err(error.into()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Guard, Reach, TOO_FAR_INSIDE};
    use crate::http::reason_of;
    use reqwest::blocking::Client;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use url::Url;

    fn url(host: &str) -> Url {
        Url::parse(&format!("https://{host}/")).unwrap()
    }

    #[test]
    fn where_addresses_lie() {
        for (host, expected) in [
            ("192.0.2.1", Reach::Public),
            ("100.63.255.255", Reach::Public),
            ("172.32.0.1", Reach::Public),
            ("[2001:db8::1]", Reach::Public),
            ("[::ffff:192.0.2.1]", Reach::Public),
            ("[64:ff9b::192.0.2.1]", Reach::Public),
            ("10.1.2.3", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("[fd00::1]", Reach::Private),
            ("[fec0::1]", Reach::Private),
            ("[::ffff:10.0.0.1]", Reach::Private),
            ("[64:ff9b::10.0.0.1]", Reach::Private),
            ("[2002:a00:1::]", Reach::Private),
            ("localhost", Reach::Machine),
            ("LOCALHOST.", Reach::Machine),
            ("a.localhost", Reach::Machine),
            ("127.0.0.1", Reach::Machine),
            ("0x7f.1", Reach::Machine),
            ("2130706433", Reach::Machine),
            ("0.0.0.0", Reach::Machine),
            ("169.254.169.254", Reach::Machine),
            ("224.0.0.1", Reach::Machine),
            ("[::1]", Reach::Machine),
            ("[::]", Reach::Machine),
            ("[::127.0.0.1]", Reach::Machine),
            ("[fe80::1]", Reach::Machine),
            ("[ff02::1]", Reach::Machine),
            ("[::ffff:127.0.0.1]", Reach::Machine),
            ("[::ffff:169.254.169.254]", Reach::Machine),
        ] {
            assert_eq!(Reach::written(&url(host)), Some(expected), "{host}");
        }
        for name in ["localhost.example", "notlocalhost", "a.example"] {
            assert_eq!(Reach::written(&url(name)), None, "{name}");
        }
    }

    /// Names that mean where they lie: `public-1.example`, `private-1.example`, `machine-1.example`; `both.example`; and
    /// `turning.example`, which lies inside from its second look-up on.
    fn guard() -> Guard {
        let turns = AtomicUsize::new(0);
        Guard::with(move |name| {
            let (public, private, machine) = ("192.0.2.1:0", "10.0.0.1:0", "127.0.0.1:0");
            let turning = || if turns.fetch_add(1, Ordering::SeqCst) == 0 { public } else { machine };
            let addresses = match name.split(['-', '.']).next().unwrap() {
                "public" => vec![public],
                "private" => vec![private],
                "machine" => vec![machine],
                "both" => vec![machine, public],
                "turning" => vec![turning()],
                _ => panic!("{name}"),
            };
            Ok(addresses.into_iter().map(|address| address.parse::<SocketAddr>().unwrap()).collect())
        })
    }

    /// Goes from one to the next, and says at which it is stopped.
    #[test]
    fn servers_lead_no_further_inside_than_they_lie() {
        for (chain, stopped_at) in [
            (&["public.example", "public-2.example", "192.0.2.2"][..], None),
            (&["public.example", "private.example"], Some(1)),
            (&["public.example", "machine.example"], Some(1)),
            (&["public.example", "10.0.0.1"], Some(1)),
            (&["public.example", "127.0.0.1"], Some(1)),
            (&["192.0.2.1", "machine.example"], Some(1)),
            (&["private.example", "private-2.example", "10.0.0.2", "public.example"], None),
            (&["private.example", "machine.example"], Some(1)),
            (&["private.example", "169.254.169.254"], Some(1)),
            (&["10.0.0.1", "private.example"], None),
            (&["localhost", "machine.example", "127.0.0.1", "private.example", "public.example"], None),
            (&["private.example", "public.example", "private-2.example"], Some(2)),
            // The name that was named itself means something else when it is led to.
            (&["turning.example", "turning.example"], Some(1)),
            // One outside and one inside: only that outside is connected to.
            (&["public.example", "both.example"], None),
            (&["both.example", "machine.example"], Some(1)),
        ] {
            let guard = guard();
            let urls: Vec<Url> = chain.iter().map(|host| url(host)).collect();
            let stopped = (0..urls.len()).find(|&at| {
                let led = if at == 0 { Ok(()) } else { guard.lead(&urls[..at], &urls[at]) };
                let is_name = Reach::written(&urls[at]).is_none();
                led.is_err() || (is_name && guard.addresses(chain[at]).is_err())
            });
            assert_eq!(stopped, stopped_at, "{chain:?}");
        }
        let guard = guard();
        guard.lead([&url("public.example")], &url("both.example")).unwrap();
        assert_eq!(guard.addresses("both.example").unwrap(), ["192.0.2.1:0".parse().unwrap()]);
    }

    /// The client connects to what the guard gives it, and to nothing else.
    #[test]
    fn the_client_asks_the_guard() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").unwrap();
        });
        rustls::crypto::ring::default_provider().install_default().ok();
        let guard = Arc::new(guard());
        let client = Client::builder().no_proxy().dns_resolver(Arc::clone(&guard)).build().unwrap();
        let inside = format!("http://machine.example:{port}/");
        assert_eq!(client.get(&inside).send().unwrap().status(), 204);
        asked.join().unwrap();
        let inside = inside.replace("machine", "machine-2");
        guard.lead([&url("public.example")], &Url::parse(&inside).unwrap()).unwrap();
        let error = client.get(&inside).send().unwrap_err();
        assert_eq!(reason_of(&error), TOO_FAR_INSIDE);
    }
}
