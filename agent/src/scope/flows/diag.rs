//! `NETLINK_SOCK_DIAG`: the sockets of a network namespace with their cgroup, and the end of one.
//!
//! Listing needs the modules `tcp_diag` and `udp_diag`, which the kernel loads when it is asked; ending CAP_NET_ADMIN and a
//! kernel with `CONFIG_INET_DIAG_DESTROY`. Cgroup ids are told from 5.8 on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt::ReceiveTimeout,
};

/// `SOCK_DIAG_BY_FAMILY`.
const LIST: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// `INET_DIAG_CGROUP_ID`.
const CGROUP_ID: u16 = 21;
/// `TCP_LISTEN`; UDP sockets are `TCP_CLOSE` (7) or, if connected, `TCP_ESTABLISHED` (1).
const LISTENING: u8 = 10;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// `struct inet_diag_msg`.
const ANSWER: usize = 72;
/// Where `struct inet_diag_sockid` begins in an answer.
const ID: usize = 4;
/// Its length.
const ID_LENGTH: usize = 48;
/// More messages than a dump of all sockets there can be would take.
const MOST_MESSAGES: usize = 1 << 20;
/// The kernel answers at once.
const PATIENCE: nix::sys::time::TimeVal = nix::sys::time::TimeVal::new(5, 0);

/// A socket, as the kernel tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// It waits for connections.
    pub listens: bool,
    /// Its own end.
    pub local: SocketAddr,
    /// The other end; port 0: there is none.
    pub remote: SocketAddr,
    /// The cgroup it was made in.
    pub cgroup_id: u64,
    family: u8,
    /// `struct inet_diag_sockid`.
    id: [u8; ID_LENGTH],
}

/// Asks about the sockets of the network namespace it was opened in.
#[derive(Debug)]
pub struct Diag(OwnedFd);

impl Diag {
    /// # Errors
    /// If the kernel has no such sockets, or they are forbidden here.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &PATIENCE)?;
        Ok(Self(socket))
    }

    /// All TCP and UDP sockets, of both families.
    ///
    /// # Errors
    /// What the kernel answers: `ENOENT` where it has no module for one of them.
    pub fn flows(&self) -> io::Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for protocol in [libc::IPPROTO_TCP as u8, libc::IPPROTO_UDP as u8] {
            for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
                let mut question = [0; QUESTION];
                (question[0], question[1]) = (family, protocol);
                // Every state.
                question[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
                self.ask(LIST, REQUEST | DUMP, &question)?;
                self.answers(|message| flows.extend(parse(protocol, message)))?;
            }
        }
        Ok(flows)
    }

    /// Ends one: whoever uses it is told `ECONNABORTED`. False: it is gone already.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn destroy(&self, flow: &Flow) -> io::Result<bool> {
        let mut question = [0; QUESTION];
        (question[0], question[1]) = (flow.family, flow.protocol);
        question[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        question[8..].copy_from_slice(&flow.id);
        self.ask(DESTROY, REQUEST | ACKNOWLEDGE, &question)?;
        match self.answers(|_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn ask(&self, kind: u16, flags: u16, question: &[u8; QUESTION]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + QUESTION);
        message.extend(((HEADER + QUESTION) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        // Sequence and port: there is one question at a time.
        message.extend([0; 8]);
        message.extend(question);
        sendto(self.0.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// Until the kernel says that it is done, or that it has failed.
    fn answers(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        for _ in 0..MOST_MESSAGES {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = message(rest) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => {
                        let code = number(body, 0).map_or(libc::EIO, |code| -code.cast_signed());
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) };
                    }
                    _ => each(body),
                }
                rest = next;
            }
        }
        Err(io::Error::other("the list of sockets has no end"))
    }
}

/// Kind and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(bytes, 0)? as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// `struct inet_diag_msg` and its attributes. `None`: cut, or without a cgroup (it has no owner any more).
fn parse(protocol: u8, answer: &[u8]) -> Option<Flow> {
    let fixed = answer.get(..ANSWER)?;
    let id: [u8; ID_LENGTH] = fixed[ID..ID + ID_LENGTH].try_into().ok()?;
    let family = fixed[0];
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let mut attributes = &answer[ANSWER..];
    let mut cgroup_id = None;
    while let Some(length) = attributes.get(..2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]])) {
        let Some(value) = attributes.get(4..usize::from(length)) else { break };
        if u16::from_ne_bytes([attributes[2], attributes[3]]) == CGROUP_ID {
            cgroup_id = value.try_into().ok().map(u64::from_ne_bytes);
        }
        attributes = attributes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Flow {
        protocol,
        listens: protocol == libc::IPPROTO_TCP as u8 && fixed[1] == LISTENING,
        local: SocketAddr::new(address(family, &id[4..20])?, port(0)),
        remote: SocketAddr::new(address(family, &id[20..36])?, port(2)),
        cgroup_id: cgroup_id?,
        family,
        id,
    })
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn own_sockets_are_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let stream = TcpStream::connect(there).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect(there).unwrap();
        let flows = match Diag::open().and_then(|diag| diag.flows()) {
            Ok(flows) => flows,
            // A kernel without the modules.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return,
            Err(error) => panic!("{error}"),
        };
        let found = |local: SocketAddr| flows.iter().find(|flow| flow.local == local && flow.cgroup_id != 0);
        assert!(found(there).is_some_and(|flow| flow.listens), "{flows:?}");
        let own = stream.local_addr().unwrap();
        assert_eq!(found(own).map(|flow| (flow.remote, flow.listens)), Some((there, false)));
        let datagrams = found(udp.local_addr().unwrap());
        assert_eq!(datagrams.map(|flow| (flow.protocol, flow.remote)), Some((17, there)));
    }

    #[test]
    fn what_is_cut_is_no_socket() {
        assert_eq!(parse(6, &[0; ANSWER - 1]), None);
        let mut whole = [0; ANSWER + 12];
        whole[0] = libc::AF_INET as u8;
        whole[1] = LISTENING;
        whole[ANSWER..ANSWER + 2].copy_from_slice(&12u16.to_ne_bytes());
        whole[ANSWER + 2..ANSWER + 4].copy_from_slice(&CGROUP_ID.to_ne_bytes());
        whole[ANSWER + 4..].copy_from_slice(&7u64.to_ne_bytes());
        let flow = parse(6, &whole).unwrap();
        assert_eq!((flow.cgroup_id, flow.listens, flow.local.port()), (7, true, 0));
        assert_eq!(parse(6, &whole[..ANSWER + 11]), None);
        whole[0] = 77;
        assert_eq!(parse(6, &whole), None);
        assert!(message(&[0; 3]).is_none() && message(&8u32.to_ne_bytes()).is_none());
    }
}
