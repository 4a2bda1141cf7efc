//! Datagrams, many with one system call: what the kernel does for each is most of what an answer costs.

use std::{
    io, mem,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use super::question::MAX_QUESTION;

/// Datagrams that are taken with one call. No more: the first waits until the last is answered.
const BATCH: usize = 16;

/// Room for a batch of questions and their replies.
#[derive(Debug)]
pub struct Datagrams(Box<[Place; BATCH]>);

/// Room for a question, who sent it, and what is sent back.
#[derive(Debug, Clone)]
pub struct Place {
    /// Who sent it.
    pub peer: Peer,
    question: Box<[u8; MAX_QUESTION + 1]>,
    length: usize,
    /// Empty: nothing.
    reply: Vec<u8>,
}

/// Where a datagram came from, as the kernel has it.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Of both families the longer one.
    address: libc::sockaddr_in6,
    length: libc::socklen_t,
}

impl Peer {
    /// The same for others.
    pub fn address(&self) -> SocketAddr {
        let libc::sockaddr_in6 { sin6_family, sin6_port, sin6_flowinfo, sin6_addr, sin6_scope_id } =
            self.address;
        let port = u16::from_be(sin6_port);
        if i32::from(sin6_family) == libc::AF_INET {
            // The flow is where an IPv4 address has its bytes.
            return SocketAddrV4::new(sin6_flowinfo.to_ne_bytes().into(), port).into();
        }
        SocketAddrV6::new(sin6_addr.s6_addr.into(), port, sin6_flowinfo, sin6_scope_id).into()
    }

    const NOBODY: Self = Self {
        address: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
        length: 0,
    };
}

impl Place {
    /// The question, and where its reply goes.
    pub fn parts(&mut self) -> (&[u8], &mut Vec<u8>) {
        (self.question.get(..self.length).unwrap_or_default(), &mut self.reply)
    }
}

impl Datagrams {
    /// Nothing has come yet.
    pub fn new() -> Self {
        let place = Place {
            peer: Peer::NOBODY,
            question: Box::new([0; MAX_QUESTION + 1]),
            length: 0,
            reply: Vec::new(),
        };
        Self(Box::new(std::array::from_fn(|_| place.clone())))
    }

    /// Takes what has come, without waiting.
    ///
    /// # Errors
    /// The kernel's, if there is nothing.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<&mut [Place]> {
        let mut parts = [NO_PART; BATCH];
        let mut headers = [NO_HEADER; BATCH];
        for ((place, part), header) in self.0.iter_mut().zip(&mut parts).zip(&mut headers) {
            let Place { peer, question, length: _, reply } = place;
            reply.clear();
            *part = libc::iovec { iov_base: question.as_mut_ptr().cast(), iov_len: question.len() };
            header.msg_hdr.msg_name = ptr::from_mut(&mut peer.address).cast();
            header.msg_hdr.msg_namelen = size_of_val(&peer.address) as libc::socklen_t;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        let (fd, wait) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: `headers` has so many; each points to an address and to one part, and that to a question, all of them valid
        // for writes for the lengths given and not moved before the call ends.
        let count =
            unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), BATCH as libc::c_uint, wait, ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let received = self.0.get_mut(..count).unwrap_or_default();
        for (place, header) in received.iter_mut().zip(&headers) {
            place.length = header.msg_len as usize;
            place.peer.length = header.msg_hdr.msg_namelen;
        }
        Ok(received)
    }

    /// Sends the replies. As with any datagram, one that finds no room is lost; the client asks again.
    pub fn send(places: &mut [Place], socket: BorrowedFd<'_>) {
        let mut parts = [NO_PART; BATCH];
        let mut headers = [NO_HEADER; BATCH];
        let replies = places.iter_mut().filter(|place| !place.reply.is_empty());
        let mut count = 0;
        for ((place, part), header) in replies.zip(&mut parts).zip(&mut headers) {
            let Place { peer, reply, .. } = place;
            *part = libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
            header.msg_hdr.msg_name = ptr::from_mut(&mut peer.address).cast();
            header.msg_hdr.msg_namelen = peer.length;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        let mut rest = headers.get_mut(..count).unwrap_or_default();
        while !rest.is_empty() {
            let (fd, count) = (socket.as_raw_fd(), rest.len() as libc::c_uint);
            // SAFETY: as where they are received, but that the kernel writes to nothing but the headers.
            let sent = unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
            // If there is an error, the first of them has met it.
            let done = usize::try_from(sent).unwrap_or(1).max(1);
            rest = rest.get_mut(done..).unwrap_or_default();
        }
    }
}

const NO_PART: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
// SAFETY: it is made of numbers and pointers, of which zero and null are some.
const NO_HEADER: libc::mmsghdr = unsafe { mem::zeroed() };

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
        os::fd::AsFd as _,
        time::Duration,
    };

    use super::*;

    /// A server's socket and two clients of it.
    fn sockets(address: IpAddr) -> (UdpSocket, [UdpSocket; 2]) {
        let server = UdpSocket::bind((address, 0)).unwrap();
        let client = || {
            let client = UdpSocket::bind((address, 0)).unwrap();
            client.connect(server.local_addr().unwrap()).unwrap();
            client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            client
        };
        let clients = [client(), client()];
        (server, clients)
    }

    fn received(client: &UdpSocket) -> Option<Vec<u8>> {
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    #[test]
    fn each_reply_goes_to_who_has_asked() {
        let families: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        // Not every machine has IPv6.
        for address in families.into_iter().filter(|address| UdpSocket::bind((*address, 0)).is_ok()) {
            let (server, clients) = sockets(address);
            for index in 0..40 {
                clients[index % 2].send(&[0, u8::try_from(index).unwrap()]).unwrap();
            }
            let mut datagrams = Datagrams::new();
            let mut next = 0;
            while let Ok(places) = datagrams.receive(server.as_fd()) {
                assert!(places.len() == BATCH || next + places.len() == 40);
                for place in &mut *places {
                    let client = &clients[next % 2];
                    assert_eq!(place.peer.address(), client.local_addr().unwrap());
                    let (question, reply) = place.parts();
                    assert!(reply.is_empty());
                    // Every fourth has none.
                    reply.extend(if next % 4 == 3 { &[] } else { question });
                    next += 1;
                }
                Datagrams::send(places, server.as_fd());
            }
            assert_eq!(next, 40);
            let all =
                |client| std::iter::from_fn(|| received(client)).map(|bytes| bytes[1]).collect::<Vec<_>>();
            assert_eq!(all(&clients[0]), (0..40).step_by(2).collect::<Vec<_>>());
            assert_eq!(all(&clients[1]), (1..40).step_by(4).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_that_cannot_be_sent_keeps_no_other_back() {
        let (server, clients) = sockets(Ipv4Addr::LOCALHOST.into());
        for length in [1, 2, 3] {
            clients[0].send(&vec![0; length]).unwrap();
        }
        let mut datagrams = Datagrams::new();
        let places = datagrams.receive(server.as_fd()).unwrap();
        for place in &mut *places {
            let (question, reply) = place.parts();
            reply.resize(if question.len() == 2 { 70_000 } else { question.len() }, 0);
        }
        Datagrams::send(places, server.as_fd());
        assert_eq!([(); 3].map(|()| received(&clients[0])), [Some(vec![0]), Some(vec![0; 3]), None]);
        let error = datagrams.receive(server.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
