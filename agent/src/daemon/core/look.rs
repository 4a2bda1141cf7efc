//! What already runs in a cgroup that was tagged: which mounts it sees, and what it holds from before.
//!
//! The cgroup is in its scope by then, held to the policy as the host sees it. Looking asks filesystems whose servers may not
//! answer, so it is done by threads that nobody waits for without an end, and which are given up if they are stuck.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{
    apart::{spawn, wait},
    registry::How,
};
use crate::{
    audit::json::Context,
    daemon::policies::{Boot, Compiled, View},
    policy::{checked::CheckedPolicy, image::MapImage},
    scope::{
        held::{self, Report, Search},
        running::{Frozen, freeze},
        tree::{Node, Tree},
    },
};

/// What a look may take.
const LIMIT: Duration = Duration::from_secs(5);
/// What of that finding out the mounts, and compiling for them, may take.
const SEEING: Duration = Duration::from_secs(2);
/// What of that the processes may take to stand still, and then be kept so.
const FREEZING: Duration = Duration::from_secs(1);
/// Looks at one time.
const AT_ONCE: usize = 4;
/// Looks that wait.
const WAITING: usize = 1024;
/// Threads that are stuck, at which no more are begun.
const STUCK: usize = 16;
/// Things held from before that are named.
const NAMED: usize = 64;

/// A policy compiled for a view.
pub(super) type Seen = (View, Arc<MapImage>);

/// The same, and the context if it was compiled now.
type NewlySeen = (Seen, Option<Box<Context>>);

/// What is looked at.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) node: Node,
    pub(super) name: String,
    pub(super) how: How,
    /// What is to be said of it already.
    pub(super) window: Vec<String>,
    /// For what it is to be compiled; `None`: it is not known any more.
    pub(super) policy: Option<CheckedPolicy>,
    /// What it is compiled for, the host's own view first.
    pub(super) known: Vec<Seen>,
    pub(super) boot: Boot,
}

/// What a look has found.
#[derive(Debug)]
pub(super) enum Found {
    /// What the processes see; the context, if it was compiled for that now.
    View(Seen, Option<Box<Context>>),
    /// All that can be said. The last thing.
    Lines(Vec<String>),
}

/// A look under way.
#[derive(Debug)]
struct Look {
    job: Job,
    found: Receiver<Found>,
}

/// What is to be done for a look.
#[derive(Debug)]
pub(super) enum Step {
    /// The cgroup goes into the instance for this view.
    View(Job, Seen, Option<Box<Context>>),
    /// It is over.
    Done(Job, Vec<String>),
}

/// All looks.
#[derive(Debug)]
pub(super) struct Looks {
    under_way: Vec<Look>,
    waiting: VecDeque<Job>,
    wake: UnboundedSender<()>,
    woken: UnboundedReceiver<()>,
    /// Each thread that may be stuck has one.
    alive: Arc<()>,
}

impl Default for Looks {
    fn default() -> Self {
        let (wake, woken) = unbounded_channel();
        Self { under_way: Vec::new(), waiting: VecDeque::new(), wake, woken, alive: Arc::new(()) }
    }
}

impl Looks {
    /// Returns when something was found.
    pub(super) async fn woken(&mut self) {
        // We have a sender ourselves: it never ends.
        let _ = self.woken.recv().await;
    }

    /// Begins a look, or has it wait. Why not, if not.
    pub(super) fn begin(&mut self, tree: &Tree, job: Job) -> Result<(), String> {
        if self.is_stuck() {
            return Err("earlier looks are still waiting for files that do not answer".to_owned());
        }
        if self.waiting.len() >= WAITING {
            return Err("too many others were tagged at the same time".to_owned());
        }
        // Somebody waits for what was asked for by hand.
        if job.how == How::ByHand || self.under_way.len() < AT_ONCE {
            self.start(tree, job);
        } else {
            self.waiting.push_back(job);
        }
        Ok(())
    }

    /// Whether nothing is looked at.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Begins no more of those that wait.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Whether a cgroup is being looked at, or will be.
    pub(super) fn is_looked_at(&self, id: u64) -> bool {
        self.under_way.iter().map(|look| &look.job).chain(&self.waiting).any(|job| job.node.id == id)
    }

    /// What can be done now.
    pub(super) fn steps(&mut self, tree: &Tree) -> Vec<Step> {
        let mut steps = Vec::new();
        self.under_way.retain(|look| {
            loop {
                let lines = match look.found.try_recv() {
                    Ok(Found::View(seen, context)) => {
                        steps.push(Step::View(look.job.clone(), seen, context));
                        continue;
                    }
                    Ok(Found::Lines(lines)) => lines,
                    Err(mpsc::TryRecvError::Empty) => return true,
                    Err(mpsc::TryRecvError::Disconnected) => vec![not_looked("the look failed")],
                };
                steps.push(Step::Done(look.job.clone(), lines));
                return false;
            }
        });
        while self.under_way.len() < AT_ONCE
            && let Some(job) = self.waiting.pop_front()
        {
            if self.is_stuck() {
                steps.push(Step::Done(job, vec![not_looked("earlier looks have not ended")]));
            } else {
                self.start(tree, job);
            }
        }
        steps
    }

    fn is_stuck(&self) -> bool {
        Arc::strong_count(&self.alive) > STUCK
    }

    fn start(&mut self, tree: &Tree, job: Job) {
        let (tell, found) = mpsc::channel();
        let (wake, alive, tree, work) = (self.wake.clone(), self.alive.clone(), tree.clone(), job.clone());
        let tell = Tell { to: tell, wake };
        let started =
            thread::Builder::new().name("look".into()).spawn(move || look(&tree, &work, &tell, &alive));
        if let Err(error) = started {
            // The sender is gone with it: it is over at the next turn.
            eprintln!("stockade: starting a thread that looks at {}: {error}", job.node.path.display());
            let _ = self.wake.send(());
        }
        self.under_way.push(Look { job, found });
    }
}

/// A line for what could not be found out.
pub(super) fn not_looked(why: impl std::fmt::Display) -> String {
    format!("what its processes hold from before could not be looked at: {why}")
}

struct Tell {
    to: Sender<Found>,
    wake: UnboundedSender<()>,
}

impl Tell {
    fn found(&self, found: Found) {
        // The core may have ended.
        let _ = self.to.send(found);
        let _ = self.wake.send(());
    }
}

fn look(tree: &Tree, job: &Job, tell: &Tell, alive: &Arc<()>) {
    let end = Instant::now() + LIMIT;
    let mut lines = Vec::new();
    let mut base = job.known.first().cloned();
    match see(tree, job, alive) {
        Ok(Some((seen, context))) => {
            base = Some(seen.clone());
            tell.found(Found::View(seen, context));
        }
        Ok(None) => {}
        Err(why) => lines.push(format!("it is held to the policy as the host's mounts show it: {why}")),
    }
    lines.extend(look_at_held(tree, job, base, end, alive));
    tell.found(Found::Lines(lines));
}

/// What the processes see, compiled. `None`: nobody is there any more, or the policy is gone.
fn see(tree: &Tree, job: &Job, alive: &Arc<()>) -> Result<Option<NewlySeen>, String> {
    let Some(policy) = job.policy.clone() else { return Ok(None) };
    let (pids, _) = tree
        .all_processes(&job.node.path, Some(Instant::now() + SEEING))
        .map_err(|error| error.to_string())?;
    let (known, boot, name) = (job.known.clone(), job.boot.clone(), job.name.clone());
    let said = spawn(alive, move |tell| {
        let Some(view) = pids.into_iter().find_map(|pid| View::of(pid).ok()) else {
            let _ = tell.send(Ok(None));
            return;
        };
        let seen = match known.into_iter().find(|(known, _)| known.shows_the_same(&view)) {
            Some(seen) => Ok(Some((seen, None))),
            None => match view.compile(&name, &policy, &boot) {
                Ok(Compiled { image, context, warnings }) => {
                    for warning in warnings {
                        eprintln!("stockade: warning: {warning}");
                    }
                    Ok(Some(((view, Arc::new(image)), Some(Box::new(context)))))
                }
                Err(why) => Err(why.to_string()),
            },
        };
        let _ = tell.send(seen);
    })?;
    wait(&said, Instant::now() + SEEING)?
}

/// What the processes hold: descriptors while they stand still, the rest when they run again.
fn look_at_held(tree: &Tree, job: &Job, base: Option<Seen>, end: Instant, alive: &Arc<()>) -> Vec<String> {
    let mut lines = Vec::new();
    let frozen = freeze(tree, &job.node.path, FREEZING);
    let (pids, problems) = match tree.all_processes(&job.node.path, Some(end)) {
        Ok(all) => all,
        Err(error) => return vec![not_looked(error)],
    };
    lines.extend(problems.lines().map(not_looked));
    let (go, thawed) = mpsc::channel::<()>();
    let said = spawn(alive, move |tell: &Sender<Report>| {
        let allowed = |path: &std::path::Path, access: u32| {
            base.as_ref().is_some_and(|(view, image)| held::by_policy(image, &view.mounts)(path, access))
        };
        let mut search = Search::new(&pids, &allowed, end);
        search.descriptors_of_all();
        let _ = tell.send(search.report(NAMED));
        if thawed.recv().is_ok() {
            search.rest();
            let _ = tell.send(search.report(NAMED));
        }
    });
    let said = match said {
        Ok(said) => said,
        Err(why) => return vec![not_looked(why)],
    };
    let first = wait(&said, end.min(Instant::now() + FREEZING));
    // Whatever has become of the search, it runs on.
    if let Err(error) = frozen.and_then(Frozen::thaw) {
        lines.push(format!("its processes ran while they were looked at: {error}"));
    }
    let _ = go.send(());
    let first = first.or_else(|_| wait(&said, end));
    let all = first.as_ref().ok().map(|_| wait(&said, end));
    match (first, all) {
        (_, Some(Ok(report))) => lines.extend(report.lines()),
        (Ok(report), all) => {
            lines.extend(report.lines());
            if let Some(Err(why)) = all {
                lines.push(format!("could not be looked at: mappings and environments: {why}"));
            }
        }
        (Err(why), _) => lines.push(not_looked(why)),
    }
    lines
}

#[cfg(test)]
mod tests;
