//! One rule string: a path glob, or a destination.

use std::ops::Range;

use ipnet::IpNet;

use super::{diagnostic::Diagnostic, names, parse::Source};

/// Why a rule string is refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Reason.
    pub message: String,
    /// Suggestion.
    pub help: Option<String>,
}

impl Refusal {
    /// The complaint, with its place.
    #[must_use]
    pub fn at(self, source: &Source, span: Option<Range<usize>>) -> Diagnostic {
        let Self { message, help } = self;
        Diagnostic { message, source: source.name.clone(), text: source.text.clone(), span, help }
    }
}

pub(super) fn refuse<T>(message: impl Into<String>, help: &str) -> Result<T, Refusal> {
    Err(Refusal { message: message.into(), help: Some(help.to_owned()) })
}

/// Longest glob, in bytes.
pub const MAX_GLOB: usize = 1024;
/// Most globs that braces may expand to.
pub const MAX_ALTERNATIVES: usize = 64;

/// A glob, braces expanded and variables put in: absolute, or floating (`**/...`).
///
/// # Errors
/// Empty, too large, relative, `.` or `..`, `**` in part of a component, unbalanced braces; what `value` refuses.
pub fn path(text: &str, value: impl Fn(&str) -> Result<String, Refusal>) -> Result<Vec<String>, Refusal> {
    if text.is_empty() {
        return refuse("the glob is empty", "name a file, or a directory and all below it: \"/srv/data/**\"");
    }
    if text.contains('\0') {
        return refuse("a path holds no NUL byte", "take it out");
    }
    short(text)?;
    // A value may hold a comma, which is no comma of the braces around it: until they are expanded the variable is its
    // number between NUL bytes.
    let (mut numbered, mut values, mut rest) = (String::new(), Vec::new(), text);
    while let Some((before, tail)) = rest.split_once("${") {
        let Some((name, tail)) = tail.split_once('}') else {
            return refuse("`${` without `}`", "write `${workspace}`");
        };
        numbered.push_str(&format!("{before}\0{}\0", values.len()));
        values.push(value(name)?);
        rest = tail;
    }
    numbered.push_str(rest);
    let with_values = |glob: String| -> String {
        let pieces = glob.split('\0').enumerate();
        let numbered = |piece: &str| piece.parse().ok().and_then(|number: usize| values.get(number));
        pieces
            .map(
                |(index, piece)| {
                    if index % 2 == 0 { piece } else { numbered(piece).map_or("", String::as_str) }
                },
            )
            .collect()
    };
    braces(&numbered)?
        .into_iter()
        .map(with_values)
        .map(|glob| short(&glob).and_then(|()| normal(&glob, &['[', ']', '\\'])))
        .collect()
}

/// A glob on the paths of cgroups, braces expanded: absolute from the root of the v2 hierarchy, or floating. A backslash
/// stands for itself, as in the names systemd makes.
///
/// # Errors
/// See [`path`]; a variable; the mount point in front.
pub fn cgroup(text: &str) -> Result<Vec<String>, Refusal> {
    if text.contains(['\0', '\n']) || text.contains("${") {
        return refuse(
            "a cgroup's path holds no NUL byte, no newline and no variable",
            "write it as /proc/PID/cgroup shows it",
        );
    }
    if text.starts_with("/sys/fs/cgroup") {
        return refuse(
            "the path begins with where cgroups are mounted",
            "paths begin at the root of the v2 hierarchy: \"/ci.slice/job-*\"",
        );
    }
    if !text.starts_with('/') && !text.starts_with("**/") {
        return refuse(
            format!("{text:?} is no path from the root of the v2 hierarchy"),
            "start it with `/`, or with `**/` for any depth; units are named under `units`",
        );
    }
    short(text)?;
    braces(text)?.iter().map(|glob| normal(glob, &['[', ']'])).collect()
}

fn short(glob: &str) -> Result<(), Refusal> {
    if glob.len() > MAX_GLOB {
        return refuse(
            format!("the glob has {} bytes, {MAX_GLOB} are allowed", glob.len()),
            "shorten it with `**`",
        );
    }
    Ok(())
}

fn normal(glob: &str, refused: &[char]) -> Result<String, Refusal> {
    let floating = glob.starts_with("**/");
    if !glob.starts_with('/') && !floating {
        return refuse(
            format!("{glob:?} is a relative path"),
            "start it with `/`, `${workspace}/` or `**/` (at any depth)",
        );
    }
    let mut parts = Vec::new();
    for part in glob.split('/').filter(|part| !part.is_empty()) {
        match part {
            "." | ".." => return refuse(format!("{part:?} in {glob:?}"), "write the path without it"),
            "**" => {
                if parts.last() != Some(&"**") {
                    parts.push(part);
                }
            }
            _ if part.contains("**") => {
                return refuse(
                    format!("`**` is part of {part:?}"),
                    "`**` stands alone between slashes; `*` matches within a name",
                );
            }
            _ if part.contains(refused) => {
                return refuse(
                    format!("{part:?}: only `*`, `?`, `**` and `{{a,b}}` are special"),
                    "use `?` for the character",
                );
            }
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    Ok(if floating { joined } else { format!("/{joined}") })
}

fn braces(text: &str) -> Result<Vec<String>, Refusal> {
    let Some(open) = text.find('{') else {
        if text.contains('}') {
            return refuse("`}` without `{`", "braces hold alternatives: `{a,b}`");
        }
        return Ok(vec![text.to_owned()]);
    };
    let Some(length) = text[open..].find('}') else {
        return refuse("`{` without `}`", "braces hold alternatives: `{a,b}`");
    };
    let (inner, rest) = (&text[open + 1..open + length], &text[open + length + 1..]);
    if inner.contains('{') || text[..open].contains('}') {
        return refuse("braces inside braces", "write the alternatives as separate rules");
    }
    let mut out = Vec::new();
    for tail in braces(rest)? {
        for alternative in inner.split(',') {
            out.push(format!("{}{alternative}{tail}", &text[..open]));
            if out.len() > MAX_ALTERNATIVES {
                return refuse(
                    format!("the braces stand for more than {MAX_ALTERNATIVES} globs"),
                    "use `*` instead",
                );
            }
        }
    }
    Ok(out)
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Addresses.
    pub prefix: IpNet,
    /// Inclusive ranges.
    pub ports: Vec<(u16, u16)>,
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

/// `host[:ports][/proto]`, the host as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// What stands where the host stands, without brackets.
    pub host: &'a str,
    /// Inclusive ranges.
    pub ports: Vec<(u16, u16)>,
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

/// What is the same for addresses and names.
///
/// # Errors
/// Nothing; a bad port or protocol.
pub fn endpoint(text: &str) -> Result<Endpoint<'_>, Refusal> {
    if text.is_empty() {
        return refuse("the destination is empty", "write for example \"10.0.0.5:443\"");
    }
    if text.starts_with("unix:") {
        return refuse("a unix socket is no address", "write an address or a prefix");
    }
    if text.contains("://") {
        return refuse(
            format!("{text:?} is a URL"),
            "a rule names a host and ports, not what is asked of it: \"api.example.test:443/tcp\"",
        );
    }
    let (rest, tcp, udp) = match text.rsplit_once('/') {
        Some((rest, "tcp")) => (rest, true, false),
        Some((rest, "udp")) => (rest, false, true),
        Some((_, other)) if !other.starts_with(|c: char| c.is_ascii_digit()) => {
            return refuse(
                format!("protocol {other:?} is not known"),
                "`tcp` or `udp`; without one both are meant",
            );
        }
        _ => (text, true, true),
    };
    let (host, ports) = split_ports(rest)?;
    let ports = match ports {
        None => vec![(0, u16::MAX)],
        Some(list) => list.split(',').map(port_range).collect::<Result<_, _>>()?,
    };
    Ok(Endpoint { host, ports, tcp, udp })
}

/// `address-or-prefix[:ports][/proto]`.
///
/// # Errors
/// A name, a bad prefix, host bits, a bad port or protocol.
pub fn destination(text: &str) -> Result<Destination, Refusal> {
    let Endpoint { host, ports, tcp, udp } = endpoint(text)?;
    Ok(Destination { prefix: prefix(host)?, ports, tcp, udp })
}

/// Whether a destination is named, and not given by its address.
#[must_use]
pub fn is_named(text: &str) -> bool {
    endpoint(text).is_ok_and(|endpoint| !text.starts_with('[') && names::is_name(endpoint.host))
}

/// Splits `host:ports`; an IPv6 host with ports stands in brackets.
fn split_ports(rest: &str) -> Result<(&str, Option<&str>), Refusal> {
    if let Some(inner) = rest.strip_prefix('[') {
        let Some((host, tail)) = inner.split_once(']') else {
            return refuse("`[` without `]`", "write for example [2001:db8::53]:53");
        };
        return match tail.strip_prefix(':') {
            Some(ports) => Ok((host, Some(ports))),
            None if tail.is_empty() => Ok((host, None)),
            None => refuse(format!("{tail:?} behind `]`"), "ports follow as `]:443`"),
        };
    }
    match rest.matches(':').count() {
        0 => Ok((rest, None)),
        1 => Ok(rest.split_once(':').map_or((rest, None), |(host, ports)| (host, Some(ports)))),
        _ => Ok((rest, None)),
    }
}

fn port_range(text: &str) -> Result<(u16, u16), Refusal> {
    let port = |text: &str| match text.parse::<u32>() {
        Ok(number @ 1..=65535) => Ok(number as u16),
        Ok(number) => refuse(format!("port {number} does not exist"), "ports are 1 to 65535"),
        Err(_) => refuse(format!("{text:?} is no port"), "write `443`, `8000-8100` or `80,443`"),
    };
    let (low, high) = match text.split_once('-') {
        Some((low, high)) => (port(low)?, port(high)?),
        None => (port(text)?, port(text)?),
    };
    if low > high {
        return refuse(format!("the range {text} is reversed"), "write the lower port first");
    }
    Ok((low, high))
}

fn prefix(host: &str) -> Result<IpNet, Refusal> {
    let net: IpNet = if let Ok(net) = host.parse() {
        net
    } else if let Ok(addr) = host.parse::<std::net::IpAddr>() {
        addr.into()
    } else if host.starts_with(|c: char| c.is_ascii_digit() || c == ':')
        && !host.contains(|c: char| c.is_ascii_alphabetic() && !c.is_ascii_hexdigit())
    {
        return refuse(
            format!("{host:?} is no address or prefix"),
            "write for example 10.0.0.0/8, 192.0.2.7 or [2001:db8::/32]",
        );
    } else {
        return refuse(
            format!("{host:?} is no address or prefix"),
            "here names are not meant: write for example 10.0.0.0/8, 192.0.2.7 or [2001:db8::/32]",
        );
    };
    // Before anything is cut off it.
    if net.addr() != net.network() {
        return Err(Refusal {
            message: format!("{net} has bits set behind the prefix"),
            help: Some(format!("write {}, or the address alone", net.trunc())),
        });
    }
    Ok(match net {
        // An IPv4 address written as IPv6 is that IPv4 address.
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.network().to_ipv4_mapped() {
            Some(v4) => ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(net, IpNet::V4),
            None => net,
        },
        _ => net,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(result: Result<impl std::fmt::Debug, Refusal>) -> String {
        result.unwrap_err().message
    }

    fn path(text: &str) -> Result<Vec<String>, Refusal> {
        super::path(text, |name| Ok(format!("/w,{name}")))
    }

    #[test]
    fn a_comma_in_a_value_separates_nothing() {
        assert_eq!(path("${a}{,${b}}/y").unwrap(), ["/w,a/y", "/w,a/w,b/y"]);
        assert_eq!(path("{${a},/b}/x").unwrap(), ["/w,a/x", "/b/x"]);
        assert_eq!(path("${a}/{x,y}").unwrap(), ["/w,a/x", "/w,a/y"]);
        assert!(why(path("${a")).contains("without"));
        assert!(why(path("/{${a")).contains("without"));
    }

    #[test]
    fn globs_are_expanded_and_normalised() {
        assert_eq!(path("/{lib,usr/lib}//x/**/**").unwrap(), ["/lib/x/**", "/usr/lib/x/**"]);
        assert_eq!(path("**/.env").unwrap(), ["**/.env"]);
    }

    #[test]
    fn bad_globs_say_why() {
        assert!(why(path("")).contains("empty"));
        assert!(why(path("etc/x")).contains("relative"));
        assert!(why(path("/a/../b")).contains(".."));
        assert!(why(path("/a**/b")).contains("`**` is part"));
        assert!(why(path("/{a")).contains("without"));
        assert!(why(path(&"/{a,b}".repeat(7))).contains("more than 64"));
        assert!(why(path(&format!("/{}", "x".repeat(2000)))).contains("bytes"));
    }

    #[test]
    fn destinations_are_read() {
        let v6 = destination("[2001:db8::53]:53/udp").unwrap();
        assert_eq!((v6.prefix.to_string().as_str(), v6.tcp, v6.udp), ("2001:db8::53/128", false, true));
        let v4 = destination("10.0.0.0/8:80,8000-8100/tcp").unwrap();
        assert_eq!((v4.prefix.to_string().as_str(), v4.ports), ("10.0.0.0/8", vec![(80, 80), (8000, 8100)]));
        assert_eq!(destination("10.0.0.0/8").unwrap().prefix.to_string(), "10.0.0.0/8");
        assert_eq!(destination("::1/128").unwrap().prefix.to_string(), "::1/128");
        assert_eq!(destination("::ffff:192.0.2.1").unwrap().prefix.to_string(), "192.0.2.1/32");
        assert_eq!(destination("::ffff:10.0.0.0/104").unwrap().prefix.to_string(), "10.0.0.0/8");
    }

    #[test]
    fn names_are_told_from_addresses() {
        for text in ["api.example.test:443/tcp", "*.example.test", "db:5432", "0x7f.1", "2130706433:80", "*"]
        {
            assert!(is_named(text), "{text}");
        }
        for text in [
            "192.0.2.1:443",
            "10.0.0.0/8",
            "10.0.0.300",
            "::1",
            "[2001:db8::1]:53/udp",
            "[a.test]:1",
            "",
            "x/y",
        ] {
            assert!(!is_named(text), "{text}");
        }
    }

    #[test]
    fn bad_destinations_say_why() {
        assert!(why(destination("1.2.3.4:70000")).contains("70000"));
        assert!(why(destination("1.2.3.4:9-8")).contains("reversed"));
        assert!(why(destination("10.1.0.0/8")).contains("behind the prefix"));
        assert!(why(destination("::ffff:10.1.2.3/104")).contains("behind the prefix"));
        assert!(why(destination("10.0.0.0/33")).contains("no address or prefix"));
        assert!(why(destination("api.example.test:443")).contains("no address or prefix"));
        assert!(why(destination("https://1.2.3.4/")).contains("URL"));
        assert!(why(destination("unix:/run/x")).contains("no address"));
        assert!(why(destination("1.2.3.4:80/sctp")).contains("sctp"));
    }
}
