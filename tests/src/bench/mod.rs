//! What each operation costs under each configuration: one boot, one program that measures, added instructions.

mod configuration;
mod landlock;
mod operation;
mod policy;

use std::io;

/// Where the files are that the operations use; eight names deep, allowed by a rule on the fourth.
const FOLDER: &str = "/perf/1/2/3/4/5/6";
/// The file that is opened.
const FILE: &str = "/perf/1/2/3/4/5/6/file";
/// Two names in a folder of their own, renamed to and fro.
const MOVED: [&str; 2] = ["/perf/moved/a", "/perf/moved/b"];
/// Port of the listeners on 127.0.0.1.
const PORT: u16 = 7001;
/// What is executed: static, and ends at once.
const PROGRAM: &str = "/bin/busybox";

/// Runs a verb of the command line.
pub fn main(words: &[String]) -> io::Result<()> {
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["suite", names @ ..] => configuration::suite(names),
        ["verified"] => configuration::verified(),
        ["load"] => configuration::load(),
        ["ops", name] => operation::measure_all(name),
        ["landlock", rules, name] => {
            landlock::restrict(rules.parse().map_err(io::Error::other)?)?;
            operation::measure_all(name)
        }
        _ => Err(io::Error::other(
            "usage: bench suite [CONFIGURATION]... | verified | load | ops NAME | landlock RULES NAME",
        )),
    }
}
