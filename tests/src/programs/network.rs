//! What there is to talk to: a name server, a web server, git's daemon, on addresses that look public.

use std::fs;
use std::io::Write as _;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::exec::{Checked, run, until};

/// Each host: its name and the last byte of its addresses. No two share an address, which would be allowed for both.
pub const HOSTS: [(&str, u8); 13] = [
    ("git.programs.test", 10),
    ("code.programs.test", 11),
    ("www.programs.test", 12),
    ("api.programs.test", 13),
    ("index.programs.test", 14),
    ("files.programs.test", 15),
    ("crates.programs.test", 16),
    ("static.programs.test", 17),
    ("registry.programs.test", 18),
    ("tarballs.programs.test", 19),
    ("deb.programs.test", 20),
    ("pool.programs.test", 21),
    ("half.programs.test", HALF),
];
/// This one's IPv6 address is nobody's.
const HALF: u8 = 22;
/// Where the name server listens.
pub const NAMESERVER: &str = "198.51.100.53";
/// Folders of what each host offers.
pub const OFFERS: &str = "/srv/offers";
/// Whom programs trust by default.
pub const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const FOLDER: &str = "/srv/servers";

fn v4(last: u8) -> String {
    format!("198.51.100.{last}")
}

fn v6(last: u8) -> String {
    format!("2001:db8::{last}")
}

/// Servers, which end with this value.
#[derive(Debug, Default)]
pub struct Servers(Vec<Child>);

impl Servers {
    fn start(&mut self, words: &[&str]) -> Checked {
        let log = fs::File::create(format!("{FOLDER}/{}.log", words[0])).map_err(|e| e.to_string())?;
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.0.push(command.spawn().map_err(|e| format!("starting {}: {e}", words[0]))?);
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts all of it.
pub fn start() -> Checked<Servers> {
    serve().map_err(|why| {
        let logs = ["dnsmasq", "nginx", "git"].map(|name| fs::read_to_string(format!("{FOLDER}/{name}.log")));
        format!("{why}: {}", logs.into_iter().flatten().collect::<String>())
    })
}

fn serve() -> Checked<Servers> {
    for folder in [FOLDER, OFFERS, "/var/log/nginx", "/var/lib/nginx", "/etc/ssl/certs"] {
        fs::create_dir_all(folder).map_err(|e| format!("{folder}: {e}"))?;
    }
    addresses()?;
    certificate()?;
    let mut servers = Servers::default();
    let mut words =
        ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"]
            .map(str::to_owned)
            .to_vec();
    // It alone knows of test.
    words.extend(["--no-resolv", "--no-hosts", "--local=/test/", "--bind-interfaces"].map(str::to_owned));
    words.push(format!("--listen-address={NAMESERVER}"));
    words.extend(HOSTS.map(|(name, last)| format!("--host-record={name},{},{}", v4(last), v6(last))));
    words.push("--cname=alias.programs.test,api.programs.test".to_owned());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    servers.start(&words)?;
    resolv_conf(&format!("nameserver {NAMESERVER}\n"))?;
    fs::write(format!("{FOLDER}/nginx.conf"), web()).map_err(|e| e.to_string())?;
    servers.start(&["nginx", "-c", &format!("{FOLDER}/nginx.conf")])?;
    let repositories = format!("{OFFERS}/git.programs.test");
    fs::create_dir_all(&repositories).map_err(|e| format!("{repositories}: {e}"))?;
    let base = format!("--base-path={repositories}");
    servers.start(&["git", "daemon", "--export-all", "--reuseaddr", &base])?;
    for (what, target) in [("the name server", (NAMESERVER, 53)), ("git's daemon", ("198.51.100.10", 9418))] {
        until(60, what, || Ok(TcpStream::connect(target).ok().map(drop)))?;
    }
    until(60, "the web server, by its name", || {
        let addresses = "www.programs.test:443".to_socket_addrs().ok();
        Ok(addresses.and_then(|mut all| all.find_map(|address| TcpStream::connect(address).ok())).map(drop))
    })?;
    Ok(servers)
}

fn addresses() -> Checked {
    let mut batch = format!("addr add {NAMESERVER}/32 dev lo\n");
    for (_, last) in HOSTS {
        batch += &format!("addr add {}/32 dev lo\n", v4(last));
        if last != HALF {
            batch += &format!("addr add {}/128 dev lo nodad\n", v6(last));
        }
    }
    let mut ip =
        Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let written = ip.stdin.take().map(|mut stdin| stdin.write_all(batch.as_bytes()));
    let ended = ip.wait().map_err(|e| e.to_string())?;
    match written {
        Some(Ok(())) if ended.success() => Ok(()),
        _ => Err(format!("ip: {ended}")),
    }
}

/// What programs read of name servers and search domains.
pub fn resolv_conf(text: &str) -> Checked {
    // The package of a resolver may have left a link here.
    let _ = fs::remove_file("/etc/resolv.conf");
    fs::write("/etc/resolv.conf", text).map_err(|e| format!("/etc/resolv.conf: {e}"))
}

/// A certificate for all hosts, by an authority that is the only one in this guest.
fn certificate() -> Checked {
    let make = || -> Result<[(String, String); 3], rcgen::Error> {
        let mut authority = CertificateParams::new([])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "Authority of a guest");
        let key = KeyPair::generate()?;
        let root = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);
        let names: Vec<String> = HOSTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?.pem();
        Ok([
            (AUTHORITIES.to_owned(), root),
            (format!("{FOLDER}/certificate.pem"), certificate),
            (format!("{FOLDER}/key.pem"), key.serialize_pem()),
        ])
    };
    for (file, text) in make().map_err(|e| format!("making certificates: {e}"))? {
        fs::write(&file, text).map_err(|e| format!("{file}: {e}"))?;
    }
    run(&["chmod", "600", &format!("{FOLDER}/key.pem")]).map(drop)
}

/// nginx: each host has a folder; one sends on to another, as download servers do.
fn web() -> String {
    let listen = "listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;";
    format!(
        "daemon off; pid {FOLDER}/nginx.pid; error_log stderr; events {{}}
http {{
  access_log off; default_type application/octet-stream; types {{ text/html html; application/json json; }}
  ssl_certificate {FOLDER}/certificate.pem; ssl_certificate_key {FOLDER}/key.pem;
  server {{ {default} root {OFFERS}/$host; }}
  server {{ server_name www.programs.test; {listen} return 302 https://api.programs.test$request_uri; }}
  server {{
    server_name deb.programs.test; {listen} root {OFFERS}/$host;
    location /pool/ {{ return 302 https://pool.programs.test$request_uri; }}
  }}
}}
",
        default = listen.replace("80;", "80 default_server;").replace("ssl;", "ssl default_server;")
    )
}
