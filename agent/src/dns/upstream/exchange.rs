//! One question to one server, and its answer.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

/// What a server may put into a datagram: nothing that needs fragments, which can be forged.
const PAYLOAD: u16 = 1232;
/// For a datagram's answer.
const UDP_PATIENCE: Duration = Duration::from_millis(2500);
/// For a connection, all told.
const TCP_PATIENCE: Duration = Duration::from_millis(3000);
/// Datagrams that are no answer, after which something else is tried: somebody is guessing.
const MAX_FOREIGN: usize = 32;

/// How a question is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Letters in random case.
    pub random_case: bool,
    /// With options (EDNS).
    pub options: bool,
}

/// What came over UDP.
#[derive(Debug)]
pub enum Outcome {
    /// An answer to the question.
    Answer(Message),
    /// One to the same question in other letters.
    OtherCase,
}

/// What went wrong with a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A system call.
    #[error("{0}: {1}")]
    Io(&'static str, String),
    /// Nothing came.
    #[error("no answer in time")]
    Late,
    /// What came cannot be read.
    #[error("an answer that cannot be read")]
    Garbage,
    /// What came was to another question.
    #[error("answers to other questions")]
    Foreign,
    /// Only part of an answer, and there is no connection for the whole.
    #[error("an answer that is cut short")]
    Truncated,
    /// The server says that it cannot.
    #[error("{0}")]
    Code(ResponseCode),
}

/// A question as it was sent.
#[derive(Debug)]
pub struct Sent {
    pub bytes: Vec<u8>,
    id: u16,
    query: Query,
}

/// What bytes are, as an answer to a question.
#[derive(Debug)]
pub enum Received {
    Answer(Message),
    OtherCase(Message),
    Garbage,
    Foreign,
}

/// Puts a question.
pub fn question(name: &Name, kind: RecordType, manner: Manner) -> Result<Sent, Trouble> {
    let id = rand::random();
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = name.clone();
    if manner.random_case {
        name.randomize_label_case();
    }
    let query = Query::query(name, kind);
    message.add_query(query.clone());
    if manner.options {
        let mut options = Edns::new();
        options.set_max_payload(PAYLOAD);
        message.set_edns(options);
    }
    let bytes = message.to_vec().map_err(|_| Trouble::Garbage)?;
    Ok(Sent { bytes, id, query })
}

/// Reads what came.
pub fn read(sent: &Sent, bytes: &[u8]) -> Received {
    let numbered = bytes.get(..2) == Some(&sent.id.to_be_bytes()[..]);
    let response = bytes.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if !numbered || !response {
        return Received::Foreign;
    }
    let Ok(message) = Message::from_vec(bytes) else { return Received::Garbage };
    // What a server refuses to read it need not repeat.
    let unread = matches!(message.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp);
    match &message.queries[..] {
        [] if unread => Received::Answer(message),
        [query]
            if query.name == sent.query.name
                && query.query_type == sent.query.query_type
                && query.query_class == DNSClass::IN
                && message.metadata.op_code == OpCode::Query =>
        {
            if query.name.eq_case(&sent.query.name) {
                Received::Answer(message)
            } else {
                Received::OtherCase(message)
            }
        }
        _ => Received::Foreign,
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> Trouble {
    move |error| Trouble::Io(step, error.to_string())
}

/// Asks by UDP: a socket, and so a port, for each question. The kernel gives it only what comes from the server's address.
pub async fn udp(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    manner: Manner,
) -> Result<Outcome, Trouble> {
    let sent = question(name, kind, manner)?;
    let any =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let any: SocketAddr = any;
    let socket = UdpSocket::bind(any).await.map_err(failed("making a socket"))?;
    socket.connect(server).await.map_err(failed("connecting"))?;
    socket.send(&sent.bytes).await.map_err(failed("sending"))?;
    let deadline = Instant::now() + UDP_PATIENCE;
    let mut buffer = [0; 4096];
    for _ in 0..MAX_FOREIGN {
        let received = timeout_at(deadline, socket.recv(&mut buffer)).await.map_err(|_| Trouble::Late)?;
        let length = received.map_err(failed("receiving"))?;
        match read(&sent, buffer.get(..length).unwrap_or_default()) {
            Received::Answer(message) => return Ok(Outcome::Answer(message)),
            Received::OtherCase(_) => return Ok(Outcome::OtherCase),
            Received::Garbage => return Err(Trouble::Garbage),
            Received::Foreign => {}
        }
    }
    Err(Trouble::Foreign)
}

/// Asks by TCP. Also says whether the letters of the name came back as they were.
pub async fn tcp(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    manner: Manner,
) -> Result<(Message, bool), Trouble> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await.map_err(failed("connecting by TCP"))?;
        stream.set_nodelay(true).map_err(failed("connecting by TCP"))?;
        over(&mut stream, name, kind, manner).await
    };
    timeout(TCP_PATIENCE, exchange).await.map_err(|_| Trouble::Late)?
}

/// Asks over a connection.
pub async fn over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    name: &Name,
    kind: RecordType,
    manner: Manner,
) -> Result<(Message, bool), Trouble> {
    let sent = question(name, kind, manner)?;
    let length = u16::try_from(sent.bytes.len()).map_err(|_| Trouble::Garbage)?;
    let framed = [&length.to_be_bytes(), &sent.bytes[..]].concat();
    stream.write_all(&framed).await.map_err(failed("sending by TCP"))?;
    stream.flush().await.map_err(failed("sending by TCP"))?;
    let length = stream.read_u16().await.map_err(failed("receiving by TCP"))?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.map_err(failed("receiving by TCP"))?;
    match read(&sent, &bytes) {
        Received::Answer(message) => Ok((message, true)),
        Received::OtherCase(message) => Ok((message, false)),
        Received::Garbage => Err(Trouble::Garbage),
        Received::Foreign => Err(Trouble::Foreign),
    }
}
