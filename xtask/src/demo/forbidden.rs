//! What the agent must not have, and the trace that a refusal leaves in the events.

/// Who reaches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// An ordinary user.
    Agent,
    /// Root with all capabilities.
    Root,
}

/// What an event of the refusal names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// A file below the demo's directory.
    Inside(&'static str),
    /// A file of the machine.
    File(&'static str),
    /// Address and port.
    Net(&'static str, u16),
    /// A raw socket.
    Socket,
}

/// One forbidden thing.
#[derive(Debug, Clone, Copy)]
pub struct Forbidden {
    /// The step of `agent.sh`.
    pub name: &'static str,
    /// For the reader.
    pub text: &'static str,
    /// Who.
    pub by: By,
    /// Its event.
    pub trace: Trace,
}

const KEY: Trace = Trace::Inside("home/.ssh/id_ed25519");

const fn agent(name: &'static str, text: &'static str, trace: Trace) -> Forbidden {
    Forbidden { name, text, by: By::Agent, trace }
}

const fn root(name: &'static str, text: &'static str, trace: Trace) -> Forbidden {
    Forbidden { name, text, by: By::Root, trace }
}

/// Everything that `agent.sh` reaches for, in its order.
pub const FORBIDDEN: [Forbidden; 10] = [
    agent("key", "read the SSH private key", KEY),
    agent("symlink", "read it by a symlink in the workspace", KEY),
    agent("profile", "append to the shell profile", Trace::Inside("home/.profile")),
    agent("metadata", "TCP to cloud metadata", Trace::Net("169.254.169.254", 80)),
    agent("tcp", "TCP to an unlisted listener", Trace::Net("127.0.0.1", 5432)),
    agent("mapped", "the same as ::ffff:127.0.0.1", Trace::Net("127.0.0.1", 5432)),
    agent("udp", "UDP to an unlisted listener", Trace::Net("127.0.0.1", 5353)),
    root("root-shadow", "as root: read /etc/shadow", Trace::File("/etc/shadow")),
    root("root-key", "as root: read the SSH private key", KEY),
    root("root-raw", "as root: open a raw socket", Trace::Socket),
];

/// The steps of the honest job, in `agent.sh`'s order.
pub const WORK: [&str; 7] = ["clone", "edit", "diff", "build", "run", "commit", "log"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_takes_every_step_and_no_other() {
        let script = include_str!("agent.sh");
        let steps = |kind: &str| {
            script
                .lines()
                .filter_map(|line| line.trim().strip_prefix("step ")?.strip_prefix(kind)?.split(' ').nth(1))
                .collect::<Vec<_>>()
        };
        assert_eq!(steps("work"), WORK);
        assert_eq!(steps("reach"), FORBIDDEN.map(|forbidden| forbidden.name));
    }
}
