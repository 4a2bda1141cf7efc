//! Connections that are open when a policy changes: what the new one forbids ends, what it allows lives on.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::daemon::{Daemon, OPEN, POLICY, TREE, stockade, text};

/// The word that makes this program hold connections.
pub const HOLDER: &str = "__flows";
const ADDRESSES: [&str; 2] = ["127.0.0.1", "127.0.0.2"];
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends everything back, by TCP and UDP at both addresses.
fn echo() -> io::Result<u16> {
    let first = TcpListener::bind((ADDRESSES[0], 0))?;
    let port = first.local_addr()?.port();
    for listener in [first, TcpListener::bind((ADDRESSES[1], port))?] {
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
                });
            }
        });
    }
    for address in ADDRESSES {
        let socket = UdpSocket::bind((address, port))?;
        thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
    Ok(port)
}

fn answers(mut connection: impl Read + Write) -> bool {
    connection.write_all(b"x").and_then(|()| connection.read_exact(&mut [0])).is_ok()
}

/// A connected datagram socket, as a stream of single bytes.
struct Datagrams(UdpSocket);

impl Read for Datagrams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }
}

impl Write for Datagrams {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.send(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens connections to both addresses, and says after each line it is told which of them answer.
pub fn hold(port: &str) -> io::Result<()> {
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let (mut streams, mut datagrams) = (Vec::new(), Vec::new());
    for address in ADDRESSES {
        let stream = TcpStream::connect((address, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        streams.push(stream);
        let socket = UdpSocket::bind((address, 0))?;
        socket.connect((address, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        datagrams.push(Datagrams(socket));
    }
    for _ in io::stdin().lock().lines() {
        let tcp = streams.iter().map(answers);
        let udp = datagrams.iter_mut().map(answers);
        let said: Vec<&str> = tcp.chain(udp).map(|is| if is { "answers" } else { "silent" }).collect();
        println!("{}", said.join(" "));
    }
    Ok(())
}

struct Holder {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Holder {
    fn start(cgroup: &str, port: u16) -> io::Result<Self> {
        let folder = format!("{TREE}/{cgroup}");
        fs::create_dir_all(&folder)?;
        let program = std::env::current_exe()?;
        let script = format!("echo $$ > {folder}/cgroup.procs; exec {} {HOLDER} {port}", program.display());
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { process, input, output: BufReader::new(output) }),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn says(&mut self, what: &str, wanted: &str) -> Result<(), String> {
        let mut said = String::new();
        writeln!(self.input, "?").and_then(|()| self.output.read_line(&mut said)).map_err(text)?;
        if said.trim() == wanted { Ok(()) } else { Err(format!("{what}: {said:?}, not {wanted:?}")) }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// TCP and connected UDP to an address that a reload takes away, beside the same to one that stays.
pub fn at_reload() -> Result<(), String> {
    let port = echo().map_err(text)?;
    let _daemon = Daemon::start("")?;
    let hold_to = |allowed: &str| -> Result<(), String> {
        let policy = format!(
            "version = 1\nname = \"ci\"\nextends = [\"base\"]\n[scope]\ncgroups = [\"/ci\"]\n[network]\nallow = \
             [{allowed}]\n[files]\nread = [\"{OPEN}\", \"/payload/**\", \"/bin/**\"]\nexec = [\"/bin/**\", \"/payload/**\"]\n"
        );
        fs::write(POLICY, policy).map_err(text)?;
        stockade(&["policy", "reload"]).map(drop)
    };
    let (one, both) =
        (format!("\"127.0.0.1:{port}\""), format!("\"127.0.0.1:{port}\", \"127.0.0.2:{port}\""));
    hold_to(&both)?;
    let mut held = Holder::start("ci/flows", port).map_err(text)?;
    let mut free = Holder::start("elsewhere", port).map_err(text)?;
    let all = "answers answers answers answers";
    held.says("allowed", all)?;
    hold_to(&format!("{both}, \"192.0.2.1:443\""))?;
    held.says("under another policy that allows them", all)?;
    hold_to(&one)?;
    held.says("under one that allows the first", "answers silent answers silent")?;
    hold_to(&both)?;
    // A connection that was ended stays so; of a datagram socket the peer is gone.
    held.says("when it is allowed again", "answers silent answers silent")?;
    free.says("outside", all)
}
