//! What becomes of a question. Nothing here waits: where a name server has to be asked, the caller is told so.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hickory_proto::rr::RecordType;

use super::{
    Answered, GateEvent, Kernel, Why,
    answer::{self, Data, Selection},
    brief::Brief,
    cache::{Cache, Remembered},
    ledger::{Change, LedgerError},
    question::{self, Parsed, Question, Transport},
    ready::{self, JudgedBy},
    refusal::refusal_code,
    reply::{self, Content, Reason, reason},
    scope::{Counted, Scope, State},
    table::{Cover, Covered},
};

/// Seconds that a grant outlives the answer, for what connects a little later than it may.
pub const GRACE: u32 = 60;
/// Most questions of a scope that wait for name servers at once.
const MAX_WAITING: u32 = 128;

/// All scopes, what is remembered, and who is told.
pub struct Core {
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) events: Box<dyn Fn(GateEvent) + Send + Sync>,
    scopes: Mutex<HashMap<u32, Arc<Scope>>>,
    cache: Mutex<Cache>,
    /// This host's own addresses.
    own: Mutex<Arc<HashSet<IpAddr>>>,
}

/// Where a question came from.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The scope.
    pub scope: Arc<Scope>,
    /// Cookie of the network namespace.
    pub netns: u64,
}

/// What is next.
#[derive(Debug)]
pub enum Step {
    /// To be sent.
    Reply(Vec<u8>),
    /// Nothing is sent.
    Nothing,
    /// A name server has to be asked.
    Ask(Box<Question>, Counted),
}

impl Core {
    pub fn new(kernel: Arc<dyn Kernel>, events: impl Fn(GateEvent) + Send + Sync + 'static) -> Self {
        Self {
            kernel,
            events: Box::new(events),
            scopes: Mutex::default(),
            cache: Mutex::new(Cache::new()),
            own: Mutex::default(),
        }
    }

    /// A scope, which begins without a policy.
    pub fn scope(&self, id: u32) -> Arc<Scope> {
        let own = Arc::clone(&self.own.lock().unwrap_or_else(PoisonError::into_inner));
        Arc::clone(self.scopes().entry(id).or_insert_with(|| Scope::new(id, own)))
    }

    /// A scope, if there is one.
    pub fn known(&self, id: u32) -> Option<Arc<Scope>> {
        self.scopes().get(&id).cloned()
    }

    /// Forgets a scope.
    pub fn forget(&self, id: u32) {
        if let Some(scope) = self.scopes().remove(&id) {
            *scope.lock() = State { forgotten: true, ..State::default() };
        }
    }

    fn scopes(&self) -> MutexGuard<'_, HashMap<u32, Arc<Scope>>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the reply to a datagram whose question was answered before, where that comes to the same as [`Core::take`].
    #[must_use]
    pub fn repeat(&self, asker: &Asker, packet: &[u8], now: u32, out: &mut Vec<u8>) -> bool {
        let Some(brief) = Brief::read(packet) else { return false };
        let state = asker.scope.lock();
        let State { table, own, ledger, ready, .. } = &*state;
        ready.reply(JudgedBy { table, own }, ledger, &brief, now, out)
    }

    /// Takes a packet.
    pub fn take(&self, asker: &Asker, packet: &[u8], transport: Transport, now: u32) -> Step {
        let question = match question::parse(packet, transport) {
            Parsed::Question(question) => question,
            Parsed::Wrong(reply) => return Step::Reply(reply),
            Parsed::Nothing => return Step::Nothing,
        };
        let mut state = asker.scope.lock();
        let enforces = state.table.enforces();
        let covered = match state.table.cover(&question.key) {
            Cover::By(covered) => covered,
            cover => {
                let refusal = self.refuse(asker, &mut state, &question, &cover, now);
                if enforces {
                    return Step::Reply(refusal);
                }
                Covered::by_nothing(&question.key)
            }
        };
        let given = matches!(
            question.kind(),
            RecordType::A | RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB
        );
        if enforces && !given {
            return Step::Reply(reply::answer(&question.plain, &question.query, Content::default()).bytes);
        }
        let remembered = self.cache().get(&question.key, question.kind(), now);
        if let Some(remembered) = remembered {
            return Step::Reply(self.give(asker, &mut state, &question, &covered, &remembered, now));
        }
        let Some(counted) = asker.scope.waiting.take(MAX_WAITING) else {
            let over = state.budget.too_many_waiting(MAX_WAITING, now);
            return Step::Reply(self.over_budget(asker, &question, &covered, &over, true));
        };
        let settings = *state.table.settings();
        if let Err(over) = state.budget.take(&settings, covered.unspelled, now) {
            let refusal = self.over_budget(asker, &question, &covered, &over, enforces);
            if enforces {
                return Step::Reply(refusal);
            }
        }
        Step::Ask(question, counted)
    }

    /// The reply to a question once a name server was asked. The policy may be another by now.
    pub fn finish(
        &self,
        asker: &Asker,
        question: &Question,
        found: Result<Remembered, String>,
        now: u32,
    ) -> Vec<u8> {
        let remembered = match found {
            Ok(remembered) => remembered,
            Err(error) => return self.failed(asker, question, error, now),
        };
        let mut state = asker.scope.lock();
        match state.table.cover(&question.key) {
            Cover::By(covered) => self.give(asker, &mut state, question, &covered, &remembered, now),
            _ if !state.table.enforces() => {
                let covered = Covered::by_nothing(&question.key);
                self.give(asker, &mut state, question, &covered, &remembered, now)
            }
            cover => self.refuse(asker, &mut state, question, &cover, now),
        }
    }

    fn give(
        &self,
        asker: &Asker,
        state: &mut State,
        question: &Question,
        covered: &Covered,
        Remembered { facts, expires }: &Remembered,
        now: u32,
    ) -> Vec<u8> {
        let kind = question.kind();
        let selection = answer::select(&state.table, &state.own, &question.key, covered, facts, kind);
        let Selection { chain, data, grant, refused, what, denied } = selection;
        if let Some(rule) = denied {
            return self.refuse_as(asker, state, question, Why::LeadsToDenied, Some(rule), now);
        }
        let all_are_let_through = refused.is_empty();
        let all_refused = data.is_empty() && !all_are_let_through;
        if !all_are_let_through {
            self.rebinding(asker, state, question, covered, (refused, what), now);
        }
        if all_refused && kind != RecordType::HTTPS && kind != RecordType::SVCB {
            let text = format!(
                "{} is answered with addresses that are {what}; see [network.dns] private",
                question.key
            );
            let code = refusal_code(state);
            let reason = Reason { code: reason::FILTERED, text };
            return reply::error(&question.plain, Some(&question.query), code, Some(reason));
        }
        let ttl = ready::ttl(*expires, now);
        let nonexistent = facts.data == Data::Nonexistent;
        let reply =
            reply::answer(&question.plain, &question.query, Content { chain, data, ttl, nonexistent });
        if reply.truncated || !covered.is_by_rule() {
            return reply.bytes;
        }
        let until = ready::until(*expires, now);
        let new = match self.grant(asker.scope.id, state, question, covered, &grant, (now, until)) {
            Ok(new) => new,
            Err(error) => return self.not_granted(asker, state, question, error, now),
        };
        // Of addresses that are left out an event tells, each time anew.
        if all_are_let_through {
            let State { table, own, ready, .. } = state;
            ready.keep(JudgedBy { table, own }, question, &reply.bytes, &grant, *expires);
        }
        if new {
            (self.events)(GateEvent::Answered(Answered {
                scope: asker.scope.id,
                netns: asker.netns,
                name: question.key.to_string(),
                kind: kind.to_string(),
                addresses: grant,
                rule: covered.rule,
                ttl,
            }));
        }
        reply.bytes
    }

    /// Tells the kernel; whether there was anything new to tell.
    fn grant(
        &self,
        scope: u32,
        state: &mut State,
        question: &Question,
        covered: &Covered,
        addresses: &[IpAddr],
        (now, until): (u32, u32),
    ) -> Result<bool, String> {
        if addresses.is_empty() {
            return Ok(false);
        }
        if state.forgotten {
            return Err("the scope is gone".into());
        }
        let State { table, ledger, .. } = state;
        let mut prepared = ledger.prepare(table, &question.key, covered, addresses, (now, until));
        if matches!(prepared, Err(LedgerError::Full)) {
            self.revoke(scope, &ledger.sweep(now));
            prepared = ledger.prepare(table, &question.key, covered, addresses, (now, until));
        }
        let changes = prepared.map_err(|error| error.to_string())?;
        for (done, change) in changes.iter().enumerate() {
            if let Err(error) = self.kernel.grant(scope, change.address, &change.granted) {
                self.undo(scope, changes.get(..done).unwrap_or_default());
                return Err(format!("the kernel does not take an address: {error}"));
            }
        }
        let new = !changes.is_empty();
        ledger.commit(changes);
        Ok(new)
    }

    fn undo(&self, scope: u32, changes: &[Change]) {
        for change in changes {
            let undone = match &change.before {
                Some(before) => self.kernel.grant(scope, change.address, before),
                None => self.kernel.revoke(scope, change.address),
            };
            if let Err(error) = undone {
                tracing::warn!(scope, %error, "an address stays allowed until it expires");
            }
        }
    }

    /// Takes addresses away that nothing holds for any more.
    pub fn revoke(&self, scope: u32, addresses: &[stockade_common::net::PrefixData]) {
        for address in addresses {
            if let Err(error) = self.kernel.revoke(scope, *address) {
                tracing::warn!(scope, %error, "an address that has expired cannot be removed");
            }
        }
    }

    /// Addresses that this host has from now on.
    pub fn set_own(&self, addresses: HashSet<IpAddr>) {
        let own = {
            let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            // Replies are kept for as long as these are the same.
            if **own == addresses {
                return;
            }
            *own = Arc::new(addresses);
            Arc::clone(&own)
        };
        let scopes: Vec<_> = self.scopes().values().cloned().collect();
        for scope in scopes {
            scope.lock().own = Arc::clone(&own);
        }
    }

    /// Forgets what is over, in all scopes.
    pub fn sweep(&self, now: u32) {
        let scopes: Vec<_> = self.scopes().values().cloned().collect();
        for scope in scopes {
            let mut state = scope.lock();
            let State { table, own, ledger, ready, .. } = &mut *state;
            ready.sweep(JudgedBy { table, own }, now);
            let gone = ledger.sweep(now);
            self.revoke(scope.id, &gone);
        }
    }
}
