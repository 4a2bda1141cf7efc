//! `/etc/stockade/stockade.toml`: all of it has defaults.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::Spanned;

use crate::{
    dns::{DnsConfig, Server, ServerError, Upstreams},
    policy::{
        diagnostic::{Diagnostic, Diagnostics},
        suggest::closest,
    },
};

/// Where it is.
pub const PATH: &str = "/etc/stockade/stockade.toml";
/// Where the API is, if nothing else is said.
pub const SOCKET: &str = "/run/stockade/stockade.sock";
/// Longest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Longest path that a unix socket can have, the NUL at its end left out.
const MAX_SOCKET_PATH: usize = 107;
/// Name servers that take turns at one question.
const MAX_UPSTREAM: usize = 6;
/// Smaller logs would be turned over all the time.
const MIN_LOG: u64 = 64 << 10;

/// What an administrator has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The unix socket.
    pub socket: PathBuf,
    /// Whose members may start runs, by name.
    pub group: String,
    /// Where metrics are also given by TCP.
    pub metrics: Option<SocketAddr>,
    /// Where events are written, one a line.
    pub log: Option<PathBuf>,
    /// Bytes after which the log is begun anew.
    pub log_max_size: u64,
    /// Whom the DNS gate asks.
    pub dns: DnsConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: SOCKET.into(),
            group: "stockade".into(),
            metrics: None,
            log: None,
            log_max_size: 64 << 20,
            dns: DnsConfig::default(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    api: Api,
    metrics: Metrics,
    events: Events,
    dns: Dns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Api {
    socket: Option<Spanned<PathBuf>>,
    group: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Metrics {
    listen: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Events {
    log: Option<Spanned<PathBuf>>,
    max_size: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Dns {
    upstream: Option<Spanned<Vec<Spanned<String>>>>,
}

/// Reads a file; where there is none, all is as by default.
///
/// # Errors
/// If it is there and cannot be read, or what it says cannot be.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    let name = path.display().to_string();
    let failed = |message: String, help| Diagnostics::plain(&name, message, Some(help));
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => return Err(failed(format!("cannot be read: {error}"), "run as root")),
    };
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        let message = format!("is not a file of at most {MAX_BYTES} bytes");
        return Err(failed(message, "docs/api.md shows one"));
    }
    match fs::read_to_string(path) {
        Ok(text) => parse(&name, &text),
        Err(error) => Err(failed(format!("cannot be read: {error}"), "save it as UTF-8, readable for root")),
    }
}

/// Reads text.
///
/// # Errors
/// Syntax, unknown keys, wrong types, values that cannot be.
pub fn parse(name: &str, text: &str) -> Result<Config, Diagnostics> {
    let complaint = |message: String, span, help: String| Diagnostic {
        message,
        source: name.to_owned(),
        text: text.to_owned(),
        span,
        help: Some(help),
    };
    let file: File = toml::from_str(text).map_err(|error| {
        let help = help(error.message());
        Diagnostics(vec![complaint(error.message().to_owned(), error.span(), help)])
    })?;
    let mut wrong = Vec::new();
    let mut config = Config::default();
    let File {
        api: Api { socket, group },
        metrics: Metrics { listen },
        events: Events { log, max_size },
        dns: Dns { upstream },
    } = file;
    if let Some(socket) = socket {
        let length = socket.get_ref().as_os_str().len();
        if !is_file_path(socket.get_ref()) || length > MAX_SOCKET_PATH {
            let message = format!("a socket needs an absolute path of at most {MAX_SOCKET_PATH} bytes");
            wrong.push(complaint(message, Some(socket.span()), format!("write \"{SOCKET}\"")));
        }
        config.socket = socket.into_inner();
    }
    if let Some(group) = group {
        if group.get_ref().is_empty() {
            let help = "name a group; one that does not exist means root alone".to_owned();
            wrong.push(complaint("the group has no name".into(), Some(group.span()), help));
        }
        config.group = group.into_inner();
    }
    if let Some(listen) = listen {
        match listen.get_ref().parse() {
            Ok(address) => config.metrics = Some(address),
            Err(_) => wrong.push(complaint(
                format!("{:?} is not an address with a port", listen.get_ref()),
                Some(listen.span()),
                "write \"127.0.0.1:9464\" or \"[::1]:9464\"; names are not looked up".into(),
            )),
        }
    }
    if let Some(log) = log {
        if !is_file_path(log.get_ref()) {
            let help = "write \"/var/log/stockade/events.jsonl\"".to_owned();
            wrong.push(complaint("the log needs an absolute path".into(), Some(log.span()), help));
        }
        config.log = Some(log.into_inner());
    }
    if let Some(size) = max_size {
        if *size.get_ref() < MIN_LOG {
            let message = format!("a log takes at least {MIN_LOG} bytes");
            wrong.push(complaint(message, Some(size.span()), "write bytes, without a unit: 67108864".into()));
        }
        config.log_max_size = size.into_inner();
    }
    if let Some(upstream) = upstream {
        let (span, listed) = (upstream.span(), upstream.into_inner());
        if listed.is_empty() || listed.len() > MAX_UPSTREAM {
            let message =
                format!("there are {} name servers, and 1 to {MAX_UPSTREAM} can be asked", listed.len());
            wrong.push(complaint(
                message,
                Some(span),
                "leave the key out to ask those of /etc/resolv.conf".into(),
            ));
        }
        let mut servers: Vec<Server> = Vec::new();
        for text in listed {
            match text.get_ref().parse() {
                Ok(server) => servers.push(server),
                Err(error) => {
                    let help =
                        "write \"192.0.2.1\", \"[2001:db8::1]:53\" or \"tls://192.0.2.1#dns.example.test\"";
                    wrong.push(complaint(ServerError::to_string(&error), Some(text.span()), help.into()));
                }
            }
        }
        config.dns.upstream = Upstreams::These(servers);
    }
    if wrong.is_empty() { Ok(config) } else { Err(Diagnostics(wrong)) }
}

fn is_file_path(path: &Path) -> bool {
    use std::path::Component;
    path.is_absolute()
        && path.file_name().is_some()
        && !path.components().any(|component| matches!(component, Component::ParentDir))
}

fn help(message: &str) -> String {
    const KEYS: &str =
        "there are [api] socket, group; [metrics] listen; [events] log, max_size; [dns] upstream";
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown") {
        let word = quoted.next().unwrap_or_default();
        if let Some(meant) = closest(word, quoted) {
            return format!("did you mean `{meant}`? {KEYS}");
        }
    }
    KEYS.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> Vec<Diagnostic> {
        parse("stockade.toml", text).unwrap_err().0
    }

    #[test]
    fn nothing_said_is_as_by_default() {
        assert_eq!(parse("x", ""), Ok(Config::default()));
        assert_eq!(load(Path::new("/no/such/file")), Ok(Config::default()));
        assert_eq!(parse("x", "[api]\n[metrics]\n[events]\n"), Ok(Config::default()));
    }

    #[test]
    fn what_is_said_is_taken() {
        let text = "[api]\nsocket = \"/run/x/y.sock\"\ngroup = \"lab\"\n[metrics]\nlisten = \"[::1]:9464\"\n\
                    [events]\nlog = \"/var/log/e.jsonl\"\nmax_size = 1_000_000\n\
                    [dns]\nupstream = [\"192.0.2.1\", \"tls://[2001:db8::1]#dns.example.test\"]\n";
        let servers = ["192.0.2.1:53", "tls://[2001:db8::1]:853#dns.example.test"];
        let upstream = Upstreams::These(servers.map(|text| text.parse().unwrap()).into());
        let expected = Config {
            socket: "/run/x/y.sock".into(),
            group: "lab".into(),
            metrics: Some("[::1]:9464".parse().unwrap()),
            log: Some("/var/log/e.jsonl".into()),
            log_max_size: 1_000_000,
            dns: DnsConfig { upstream },
        };
        assert_eq!(parse("x", text), Ok(expected));
    }

    #[test]
    fn unknown_keys_are_refused_with_their_place() {
        let [wrong] = &refused("[api]\nsokcet = \"/x\"\n")[..] else { panic!() };
        assert_eq!(wrong.span, Some(6..12));
        assert!(wrong.help.as_ref().unwrap().contains("did you mean `socket`"), "{wrong:?}");
        assert!(refused("[apl]\n")[0].message.contains("unknown field"));
    }

    #[test]
    fn all_that_cannot_be_is_told_at_once() {
        let text = "[api]\nsocket = \"x.sock\"\ngroup = \"\"\n[metrics]\nlisten = \"localhost:1\"\n[events]\nlog = \"e\"\nmax_size = 1\n";
        let wrong = refused(text);
        assert_eq!(wrong.len(), 5);
        assert!(wrong.iter().all(|one| one.span.is_some() && one.help.is_some()));
        assert!(Diagnostics(wrong).to_string().contains("stockade.toml"));
        let long = format!("[api]\nsocket = \"/{}\"", "x".repeat(MAX_SOCKET_PATH));
        assert_eq!(refused(&long).len(), 1);
        assert_eq!(refused("[api]\nsocket = \"/run/../tmp/x\"").len(), 1);
        assert_eq!(refused("[events]\nmax_size = -1").len(), 1);
    }

    #[test]
    fn the_documented_file_is_one() {
        let text: String = include_str!("../../../docs/api.md")
            .lines()
            .skip_while(|line| *line != "## Configuration")
            .take_while(|line| *line != "## Who may ask")
            .filter_map(|line| line.strip_prefix("    "))
            .map(|line| format!("{line}\n"))
            .collect();
        let expected = Config {
            metrics: Some("127.0.0.1:9464".parse().unwrap()),
            log: Some("/var/log/stockade/events.jsonl".into()),
            dns: DnsConfig {
                upstream: Upstreams::These(
                    ["192.0.2.1", "tls://[2001:db8::1]#dns.example.test"]
                        .map(|text| text.parse().unwrap())
                        .into(),
                ),
            },
            ..Config::default()
        };
        assert_eq!(parse("docs/api.md", &text), Ok(expected));
    }

    #[test]
    fn each_name_server_that_is_none_is_told() {
        let wrong = refused("[dns]\nupstream = [\"dns.example.test\", \"192.0.2.1\", \"tls://192.0.2.1\"]");
        assert_eq!(wrong.len(), 2);
        assert!(wrong.iter().all(|one| one.span.is_some() && one.help.is_some()));
        assert!(refused("[dns]\nupstream = []")[0].message.starts_with("there are 0 name servers"));
        assert_eq!(refused("[dns]\nupstream = \"192.0.2.1\"").len(), 1);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        assert!(load(Path::new("/etc")).unwrap_err().to_string().contains("is not a file"));
    }
}
