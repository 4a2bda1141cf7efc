//! Who may do what. All of it is here.

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::route::Route;
use crate::daemon::command::{ScopeKind, ScopeStatus, Status};

/// Whoever is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// User 0.
    Root,
    /// In the group.
    Member {
        /// The user.
        uid: u32,
    },
    /// Anybody else.
    Nobody,
}

/// How far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// All of it.
    All,
    /// What is of the caller's own runs, and of policies what concerns no other user.
    Own(u32),
    /// Not at all.
    Nothing,
}

/// The table.
#[must_use]
pub fn access(caller: Caller, route: &Route) -> Access {
    match (caller, route) {
        (Caller::Root, _) => Access::All,
        (
            Caller::Member { uid },
            Route::Status | Route::Scope(_) | Route::Events { .. } | Route::Run | Route::EndRun(_),
        ) => Access::Own(uid),
        // Policies, tags, and what files others touched, are root's.
        (
            Caller::Member { .. },
            Route::Metrics
            | Route::Reload
            | Route::Mode(_)
            | Route::StartShadow(_)
            | Route::Shadow(_)
            | Route::EndShadow(_)
            | Route::Tag
            | Route::Untag
            | Route::Detach,
        )
        | (Caller::Nobody, _) => Access::Nothing,
    }
}

impl Access {
    /// Leaves of the status what may be seen.
    #[must_use]
    pub fn see(self, mut status: Status) -> Status {
        status.scopes = status.scopes.into_iter().filter_map(|scope| self.see_scope(scope)).collect();
        status
    }

    /// The scope, or what of it may be seen.
    #[must_use]
    pub fn see_scope(self, scope: ScopeStatus) -> Option<ScopeStatus> {
        match (self, scope.kind) {
            (Self::All, _) => Some(scope),
            (Self::Own(uid), ScopeKind::Run) => (scope.uid == Some(uid)).then_some(scope),
            // Cgroups name other users' sessions and units; a comparison names the files that they opened.
            (Self::Own(_), ScopeKind::Policy) => {
                Some(ScopeStatus { source: None, cgroups: Vec::new(), shadow: None, uid: None, ..scope })
            }
            (Self::Nothing, _) => None,
        }
    }
}

/// Knows who is in the group.
pub trait Accounts: Send + Sync {
    /// Who this user is, who came with this group. May ask the user database and take its time.
    fn caller(&self, uid: u32, gid: u32) -> Caller;
}

/// The host's accounts.
#[derive(Debug, Clone, Copy)]
pub struct HostAccounts {
    /// Whose members may start runs; `None`: there is no such group.
    pub group: Option<Gid>,
}

impl Accounts for HostAccounts {
    fn caller(&self, uid: u32, gid: u32) -> Caller {
        if uid == 0 {
            return Caller::Root;
        }
        match self.group {
            Some(group) if group.as_raw() == gid || is_member(uid, group) => Caller::Member { uid },
            _ => Caller::Nobody,
        }
    }
}

fn is_member(uid: u32, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::{api::sample, hub::Filter};

    fn routes() -> [(Route, bool); 14] {
        let ci = || "ci".to_owned();
        [
            (Route::Status, true),
            (Route::Scope(ci()), true),
            (Route::Events { follow: true, filter: Filter::default() }, true),
            (Route::Metrics, false),
            (Route::Reload, false),
            (Route::Mode(ci()), false),
            (Route::StartShadow(ci()), false),
            (Route::Shadow(ci()), false),
            (Route::EndShadow(ci()), false),
            (Route::Tag, false),
            (Route::Untag, false),
            (Route::Run, true),
            (Route::EndRun(ci()), true),
            (Route::Detach, false),
        ]
    }

    #[test]
    fn the_table_is_as_documented() {
        for (route, member) in routes() {
            assert_eq!(access(Caller::Root, &route), Access::All);
            let expected = if member { Access::Own(1000) } else { Access::Nothing };
            assert_eq!(access(Caller::Member { uid: 1000 }, &route), expected, "{route:?}");
            assert_eq!(access(Caller::Nobody, &route), Access::Nothing, "{route:?}");
        }
    }

    #[test]
    fn members_see_nothing_of_others() {
        let seen = Access::Own(1000).see(sample::status());
        let names: Vec<&str> = seen.scopes.iter().map(|scope| scope.name.as_str()).collect();
        assert_eq!(names, ["ci", "run-1000"]);
        let policy = &seen.scopes[0];
        assert!(policy.cgroups.is_empty() && policy.shadow.is_none() && policy.source.is_none());
        assert_eq!(policy.decisions, sample::status().scopes[0].decisions);
        assert!(!seen.scopes[1].cgroups.is_empty());
        assert_eq!(Access::All.see(sample::status()), sample::status());
        assert!(Access::Nothing.see(sample::status()).scopes.is_empty());
    }

    #[test]
    fn membership_is_asked_of_the_database() {
        let daemon = User::from_name("daemon").unwrap().unwrap();
        let uid = daemon.uid.as_raw();
        let of = |group: Option<u32>, gid| HostAccounts { group: group.map(Gid::from_raw) }.caller(uid, gid);
        assert_eq!(of(Some(daemon.gid.as_raw()), 65534), Caller::Member { uid }, "primary group");
        assert_eq!(of(Some(4_242_424), 65534), Caller::Nobody);
        assert_eq!(of(Some(4_242_424), 4_242_424), Caller::Member { uid }, "came with it");
        assert_eq!(of(None, 0), Caller::Nobody);
        assert_eq!(HostAccounts { group: None }.caller(0, 0), Caller::Root);
    }
}
