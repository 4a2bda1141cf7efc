//! The JSON events of a run, for a reader and for the check.

use serde_json::Value;

use super::forbidden::Trace;

/// One line of the events file.
#[derive(Debug)]
pub struct Event(Value);

/// Reads all lines; one that is no JSON is an error, since the events are promised to be.
pub fn parse(text: &str) -> Result<Vec<Event>, String> {
    text.lines()
        .map(|line| serde_json::from_str(line).map(Event).map_err(|error| format!("{error}: {line}")))
        .collect()
}

impl Event {
    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or("")
    }

    fn number(&self, pointer: &str) -> u64 {
        self.0.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    /// The line itself.
    pub fn json(&self) -> String {
        self.0.to_string()
    }

    /// Whether something was refused.
    pub fn denied(&self) -> bool {
        self.text("/verdict") == "denied"
    }

    /// Whether it says what was executed, with its arguments.
    pub fn executes(&self) -> bool {
        self.text("/kind") == "argv"
    }

    /// Whether this is the refusal of `trace`; `base` is the demo's directory.
    pub fn refuses(&self, trace: Trace, base: &str) -> bool {
        let (path, kind) = (self.text("/file/path"), self.text("/kind"));
        let names = match trace {
            Trace::Inside(rest) => path.strip_prefix(base).is_some_and(|tail| tail == format!("/{rest}")),
            Trace::File(file) => path == file,
            Trace::Net(address, port) => {
                self.text("/net/address") == address && self.number("/net/port") == u64::from(port)
            }
            Trace::Socket => kind == "socket",
        };
        self.denied() && names
    }

    /// One line for a reader.
    pub fn line(&self) -> String {
        let who = format!("{}[{}]", self.text("/process/comm"), self.number("/process/pid"));
        let what = if let Some(words) = self.0.get("argv").and_then(Value::as_array) {
            words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        } else if self.0.get("file").is_some() {
            let access = self.0.pointer("/file/access").and_then(Value::as_array);
            let access: Vec<_> = access.into_iter().flatten().filter_map(Value::as_str).collect();
            format!("{} ({})", self.text("/file/path"), access.join("+"))
        } else if self.number("/net/port") > 0 {
            let protocol = self.text("/net/protocol");
            format!("{}:{}/{protocol}", self.text("/net/address"), self.number("/net/port"))
        } else if let Some(socket) = self.0.get("socket") {
            // A family or a type that has no name is a number.
            let word = |key: &str| match socket.get(key) {
                Some(Value::String(name)) => name.clone(),
                Some(number) => number.to_string(),
                None => "unknown".to_owned(),
            };
            format!("{} {} socket, protocol {}", word("family"), word("type"), word("protocol"))
        } else {
            String::new()
        };
        let rule = self.text("/rule/text");
        let why = match (self.denied(), rule) {
            (false, _) => String::new(),
            (true, "") => format!(": {}", self.text("/reason").replace('_', " ")),
            (true, rule) => format!(": denied by {rule}"),
        };
        let kind = if self.executes() { "exec" } else { self.text("/kind") };
        format!("{:7} {kind:7} {who:18} {what}{why}", self.text("/verdict"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Trace = Trace::Inside("home/key");

    #[test]
    fn a_refusal_is_recognised_by_what_it_names() {
        let line = r#"{"kind":"open","verdict":"denied","reason":"no_rule","rule":null,"process":{"pid":7,"comm":"cat"},"file":{"path":"/d/home/key","access":["read"]}}"#;
        let events = parse(line).unwrap();
        assert!(events[0].refuses(KEY, "/d"));
        assert!(!events[0].refuses(KEY, "/e"));
        assert!(!events[0].refuses(Trace::Net("127.0.0.1", 80), "/d"));
        assert_eq!(events[0].line(), "denied  open    cat[7]             /d/home/key (read): no rule");
        let allowed = parse(&line.replace("denied", "allowed")).unwrap();
        assert!(!allowed[0].refuses(KEY, "/d"));
    }

    #[test]
    fn what_was_refused_on_the_network_is_named() {
        let line = |what: &str| {
            let json = format!(
                r#"{{"kind":"k","verdict":"denied","reason":"family","process":{{"pid":7,"comm":"c"}},{what}}}"#
            );
            parse(&json).unwrap()[0].line()
        };
        let socket = line(r#""socket":{"family":"inet","type":"raw","protocol":1}"#);
        assert!(socket.contains("inet raw socket, protocol 1"), "{socket}");
        let sent = line(r#""net":{"address":"127.0.0.1","port":5353,"protocol":"udp"}"#);
        assert!(sent.contains("127.0.0.1:5353/udp"), "{sent}");
    }

    #[test]
    fn a_line_that_is_no_json_is_an_error() {
        assert!(parse("{}\nnonsense").is_err());
    }
}
