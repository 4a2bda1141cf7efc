//! The demo itself: controls, the agent under Stockade, its summary, the events, the verdict.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use super::{
    events::{self, Event},
    forbidden::{By, FORBIDDEN, WORK},
    script::{Outcome, Reader, Step},
    servers::{self, Listener},
    stage::{self, Stage},
    story::{Story, Tone},
    verdict::{self, Evidence, Verdict},
};

/// Executions that are shown; there are more in the file.
const EXECS_SHOWN: usize = 12;

/// How to run it.
pub struct Options<'a> {
    /// Where this is, for the reader.
    pub place: &'a str,
    /// Folder of `stockade` and `attempt`.
    pub programs: &'a Path,
    /// False to run the agent bare.
    pub policed: bool,
    /// The layout.
    pub story: Story,
}

/// Runs it; 0 if everything went as promised.
pub fn run(options: &Options) -> Result<u8> {
    // A signal from the terminal ends the agent, not us: what was set up is removed before we end.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let check = || match signals.read_signal()? {
        Some(signal) => bail!("ended by signal {}; everything was removed", signal.ssi_signo),
        None => Ok(()),
    };
    let story = options.story;
    let stage = Stage::build(options.programs)?;
    story.section(&format!("Stockade demo, {}", options.place));
    let base = stage.base.display().to_string();
    story.text(&format!(
        "An untrusted agent, running as {}, gets a workspace and one git server. It does its job there, and then\n\
         reaches for what it must not have. Everything is in $DEMO = {base}, which is removed\n\
         at the end, and in a network namespace of its own.",
        stage.person.name
    ));
    stage.serve()?;
    let listeners = servers::unlisted()?;

    let (controls, outside) = controls(story, &stage, &listeners)?;
    stage.reset_profile()?;
    check()?;

    story.section("The policy");
    story.quoted(stage::POLICY.lines());
    let agent = act(options, &stage, By::Agent, &["work", "reach"])?;
    check()?;
    let root = act(options, &stage, By::Root, &["root"])?;
    check()?;
    let inside = servers::settle(&listeners);

    let names = listeners.iter().map(|listener| listener.name.clone());
    let evidence = Evidence {
        controls,
        policed: [agent.steps, root.steps].concat(),
        statuses: [agent.status, root.status],
        events: [agent.events, root.events].into_iter().flatten().collect(),
        base,
        heard: names.zip(outside).zip(inside).map(|((name, out), inside)| (name, out, inside)).collect(),
        profile_is_intact: stage.profile_is_intact(),
    };
    show_events(story, &evidence);
    Ok(conclude(story, &verdict::judge(&evidence)))
}

fn controls(story: Story, stage: &Stage, listeners: &[Listener]) -> Result<(Vec<Step>, Vec<usize>)> {
    story.section("Without Stockade");
    story.text("The same attempts by the same users, unpoliced: each must go through, or its refusal proves nothing.");
    println!();
    let mut steps = Vec::new();
    for (by, part) in [(By::Agent, "reach"), (By::Root, "root")] {
        let (mut some, _) = follow(&mut stage.outside(by, "control", &[part]), |step| {
            let tone = if step.outcome() == Outcome::Allowed { Tone::Plain } else { Tone::Bad };
            story.row(title(step), tone, &result(step));
        })?;
        steps.append(&mut some);
    }
    Ok((steps, servers::settle(listeners)))
}

/// What one run under Stockade left.
struct Act {
    steps: Vec<Step>,
    status: i32,
    events: Vec<(By, Event)>,
}

fn act(options: &Options, stage: &Stage, by: By, parts: &[&str]) -> Result<Act> {
    let story = options.story;
    story.section(match by {
        By::Agent => "The agent under Stockade",
        By::Root => "The same as root, with all capabilities",
    });
    let (mut command, words) = stage.policed(by, parts);
    let base = stage.base.display().to_string();
    if options.policed {
        story.text(&wrapped("stockade", &words).replace(&base, "$DEMO"));
    } else {
        command = stage.outside(by, "work", parts);
        story.text("WITHOUT STOCKADE, as asked for: the demo must fail.");
    }
    println!();
    let mut reached = false;
    let log = stage.base.join("stderr");
    command.stderr(fs::File::create(&log)?);
    let (steps, status) = follow(&mut command, |step| {
        if step.reaches && !reached && by == By::Agent {
            println!();
            story.text("And now what it must not have:");
            println!();
            reached = true;
        }
        show_step(story, step, &base);
    })?;
    let summary = fs::read_to_string(&log)?.replace(&base, "$DEMO");
    println!();
    story.text("What Stockade says at the end:");
    println!();
    story.quoted(summary.lines());
    let events = match (options.policed, fs::read_to_string(stage.events(by))) {
        (true, Ok(text)) => {
            let events = events::parse(&text).map_err(anyhow::Error::msg)?;
            events.into_iter().map(|event| (by, event)).collect()
        }
        // Stockade did not start: its message is above, and the check fails.
        _ => Vec::new(),
    };
    Ok(Act { steps, status, events })
}

/// Runs `agent.sh`; each step is shown as it ends.
fn follow(command: &mut Command, mut show: impl FnMut(&Step)) -> Result<(Vec<Step>, i32)> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting the agent")?;
    let output = child.stdout.take().context("the agent has no output")?;
    let (send, receive) = std::sync::mpsc::channel();
    let reading = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let (mut reader, mut steps) = (Reader::default(), Vec::new());
    for line in receive {
        if let Some(step) = reader.line(&line) {
            show(&step);
            steps.push(step);
        }
    }
    let _ = reading.join();
    steps.extend(reader.finish().inspect(|step| show(step)));
    let status = child.wait()?;
    Ok((steps, status.code().unwrap_or(-1)))
}

fn show_step(story: Story, step: &Step, base: &str) {
    let short = |text: &str| text.replace(base, "$DEMO");
    if step.reaches {
        let outcome = step.outcome();
        let tone = if outcome == Outcome::Refused("EPERM") { Tone::Good } else { Tone::Bad };
        story.row(title(step), tone, &result(step));
    } else {
        let tone = if step.status == Some(0) { Tone::Good } else { Tone::Bad };
        story.command(&short(&step.command), tone);
        story.quoted(step.output.iter().map(|line| short(line)));
    }
}

fn title(step: &Step) -> &str {
    FORBIDDEN
        .iter()
        .find(|forbidden| forbidden.name == step.name)
        .map_or(&step.name, |forbidden| forbidden.text)
}

fn result(step: &Step) -> String {
    match step.outcome() {
        Outcome::Allowed => "allowed".to_owned(),
        Outcome::Refused(errno) => format!("refused, {errno}"),
        Outcome::Failed(why) => format!("failed: {why}"),
    }
}

/// A command line, one flag a line.
fn wrapped(program: &str, words: &[String]) -> String {
    let mut text = program.to_owned();
    for word in words {
        text.push_str(if word.starts_with("--") { " \\\n    " } else { " " });
        text.push_str(word);
    }
    text
}

fn show_events(story: Story, evidence: &Evidence) {
    story.section("The events");
    let line = |event: &Event| story.text(&event.line().replace(&evidence.base, "$DEMO"));
    let (execs, denials) = (
        evidence.events.iter().map(|(_, event)| event).filter(|event| event.executes()).collect::<Vec<_>>(),
        evidence.events.iter().map(|(_, event)| event).filter(|event| event.denied()).collect::<Vec<_>>(),
    );
    execs.iter().take(EXECS_SHOWN).for_each(|event| line(event));
    if execs.len() > EXECS_SHOWN {
        story.text(&format!("... and {} more executions", execs.len() - EXECS_SHOWN));
    }
    println!();
    denials.iter().for_each(|event| line(event));
    println!();
    let key = |event: &&&Event| event.refuses(FORBIDDEN[0].trace, &evidence.base);
    if let Some(event) = denials.iter().find(key) {
        story.text("One of them as it is written:");
        println!();
        story.quoted([event.json()]);
        println!();
    }
    story.text(&format!(
        "{} events were written as JSON lines; those above are the executions and all refusals.",
        evidence.events.len()
    ));
}

fn conclude(story: Story, verdict: &Verdict) -> u8 {
    story.section("Result");
    let row = |name: &str, count: usize, of: usize| {
        let tone = if count == of { Tone::Good } else { Tone::Bad };
        story.row(name, tone, &format!("{count} of {of}"));
    };
    row("steps of the job that succeeded", verdict.worked, WORK.len());
    row("attempts refused, with an event each", verdict.refused, FORBIDDEN.len());
    row("controls that went through unpoliced", verdict.controls, FORBIDDEN.len());
    println!();
    for problem in &verdict.problems {
        story.row("WRONG", Tone::Bad, problem);
    }
    if verdict.problems.is_empty() {
        story.text("The kernel held the agent to the policy, and let it do its job.");
        return 0;
    }
    story.text("The demo FAILED: see above.");
    1
}
