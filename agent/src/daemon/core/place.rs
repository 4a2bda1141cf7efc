//! What becomes of a cgroup when the tree is sorted. Pure.
//!
//! Names say where a cgroup belongs only if nobody who is policed has chosen them. The kernel programs give what a policed
//! process makes its parent's tag, and what others make the tag that its path says. So what is in the same scope as its
//! parent stays with it, whatever it is called; all else is placed by its own name.

use std::sync::Arc;

/// Whose a cgroup is. Instances of one policy are one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is not tagged.
    Nobody,
    /// That is found out when its workload begins.
    Undecided,
    /// A policy's.
    Policy(Arc<str>),
    /// A run's.
    Run(Arc<str>),
    /// That of a number no scope has: nothing is allowed in it.
    Unknown(u32),
}

/// What is known of a cgroup.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// Whose its parent was before the tree was sorted.
    pub(super) above_before: &'a Owner,
    /// Whose its parent is now.
    pub(super) above: &'a Owner,
    /// Whose it was before the tree was sorted.
    pub(super) own: &'a Owner,
    /// It was tagged by hand, or is below one that was.
    pub(super) by_hand: bool,
    /// Tags may be missing that the kernel programs could not note.
    pub(super) lost: bool,
    /// Its path is a container's.
    pub(super) is_container: bool,
    /// What is known of the policy whose it is.
    pub(super) policy: Known,
}

/// What is known of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It says which cgroups are its.
    Scoped,
    /// It is for those that are tagged by hand.
    Unscoped,
    /// Its file is gone.
    Leaving,
    /// Its file was not read: an earlier daemon had it.
    Unread,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Nothing.
    Leave,
    /// It is, or is not, tagged as its parent is now.
    Follow,
    /// It is the policy's.
    Tag(Arc<str>),
    /// It is nobody's.
    Untag,
}

/// Decides. `found` says to which policy the cgroup's path belongs; it is only asked if that matters.
pub(super) fn decide(facts: &Facts<'_>, found: impl FnOnce() -> Option<Arc<str>>) -> Decision {
    let Facts { above_before, above, own, by_hand, lost, is_container, policy } = facts;
    if matches!(own, Owner::Run(_)) || (*by_hand && *own != &Owner::Nobody) {
        return Decision::Leave;
    }
    if *own != &Owner::Nobody && own == above_before {
        return if above == above_before { Decision::Leave } else { Decision::Follow };
    }
    if *own == &Owner::Undecided && *is_container {
        return Decision::Leave;
    }
    let Some(name) = found() else {
        return match (own, policy) {
            (Owner::Undecided, _) | (Owner::Policy(_), Known::Scoped | Known::Leaving) => Decision::Untag,
            _ => Decision::Leave,
        };
    };
    let wanted = Owner::Policy(name.clone());
    if *own == &wanted {
        return Decision::Leave;
    }
    // Who filled the table of tags could have made it, with a name of his choice.
    let is_suspect = *own == &Owner::Nobody && *lost && *above_before != &Owner::Nobody;
    if *above == &wanted || is_suspect { Decision::Follow } else { Decision::Tag(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a";
    const B: &str = "b";

    fn policy(name: &str) -> Owner {
        Owner::Policy(name.into())
    }

    fn tag(name: &str) -> Decision {
        Decision::Tag(name.into())
    }

    struct Case {
        claim: &'static str,
        /// Whose the parent was, and is.
        above: (Owner, Owner),
        own: Owner,
        found: Option<&'static str>,
        expected: Decision,
    }

    fn decided(case: &Case, change: impl FnOnce(&mut Facts<'_>)) -> Decision {
        let mut facts = Facts {
            above_before: &case.above.0,
            above: &case.above.1,
            own: &case.own,
            by_hand: false,
            lost: false,
            is_container: false,
            policy: Known::Scoped,
        };
        change(&mut facts);
        decide(&facts, || case.found.map(Arc::from))
    }

    fn stays(above: &Owner) -> (Owner, Owner) {
        (above.clone(), above.clone())
    }

    fn case(
        claim: &'static str,
        above: (Owner, Owner),
        own: Owner,
        found: Option<&'static str>,
        expected: Decision,
    ) -> Case {
        Case { claim, above, own, found, expected }
    }

    #[test]
    fn names_place_only_what_no_policed_process_has_made() {
        let (a, b, nobody) = (policy(A), policy(B), Owner::Nobody);
        for case in [
            case(
                "a policed process's own, named like another's",
                stays(&a),
                a.clone(),
                Some(B),
                Decision::Leave,
            ),
            case(
                "a policed process's own, named like an exclude",
                stays(&a),
                a.clone(),
                None,
                Decision::Leave,
            ),
            case(
                "the same in an undecided one",
                stays(&Owner::Undecided),
                Owner::Undecided,
                Some(B),
                Decision::Leave,
            ),
            case(
                "the same below a number nobody has",
                stays(&Owner::Unknown(9)),
                Owner::Unknown(9),
                Some(B),
                Decision::Leave,
            ),
            case(
                "it goes where its parent goes",
                (a.clone(), b.clone()),
                a.clone(),
                Some("c"),
                Decision::Follow,
            ),
            case("also to nobody", (a.clone(), nobody.clone()), a.clone(), Some(B), Decision::Follow),
            case(
                "also out of the undecided",
                (Owner::Undecided, a.clone()),
                Owner::Undecided,
                Some(B),
                Decision::Follow,
            ),
            case(
                "made by others below a tagged one: by name",
                stays(&a),
                b.clone(),
                Some(B),
                Decision::Leave,
            ),
            case("and its rule is another's now", stays(&a), b.clone(), Some("c"), tag("c")),
            case("and its rule is gone: its parent's holds", stays(&a), b.clone(), Some(A), Decision::Follow),
            case("and no rule holds", stays(&a), b.clone(), None, Decision::Untag),
            case("nobody's and no rule holds", stays(&nobody), nobody.clone(), None, Decision::Leave),
            case("nobody's and a rule holds", stays(&nobody), nobody.clone(), Some(A), tag(A)),
            case(
                "below one that was just tagged by the same rule",
                (nobody.clone(), a.clone()),
                nobody.clone(),
                Some(A),
                Decision::Follow,
            ),
            case(
                "below one that was just tagged, by another",
                (nobody.clone(), a.clone()),
                nobody.clone(),
                Some(B),
                tag(B),
            ),
            case("left out of what its parent is in", stays(&a), nobody.clone(), None, Decision::Leave),
            case("left out and another's", stays(&a), nobody.clone(), Some(B), tag(B)),
            case(
                "an undecided one that is no container",
                stays(&nobody),
                Owner::Undecided,
                None,
                Decision::Untag,
            ),
            case("the same with a rule", stays(&nobody), Owner::Undecided, Some(A), tag(A)),
            case("a number nobody has", stays(&nobody), Owner::Unknown(9), None, Decision::Leave),
            case("the same with a rule", stays(&nobody), Owner::Unknown(9), Some(A), tag(A)),
            case("a run's", stays(&a), Owner::Run("r".into()), Some(B), Decision::Leave),
        ] {
            assert_eq!(decided(&case, |_| {}), case.expected, "{}", case.claim);
            let is_tagged = case.own != Owner::Nobody;
            let by_hand = decided(&case, |facts| facts.by_hand = true);
            assert!(!is_tagged || by_hand == Decision::Leave, "by hand: {}", case.claim);
        }
    }

    #[test]
    fn what_becomes_of_a_policy_becomes_of_its_cgroups() {
        let top = |found| case("", stays(&Owner::Nobody), policy(A), found, Decision::Leave);
        for (known, found, expected) in [
            (Known::Scoped, None, Decision::Untag),
            (Known::Unscoped, None, Decision::Leave),
            (Known::Unread, None, Decision::Leave),
            (Known::Leaving, None, Decision::Untag),
            (Known::Leaving, Some(B), tag(B)),
            (Known::Unscoped, Some(B), tag(B)),
        ] {
            let decision = decided(&top(found), |facts| facts.policy = known);
            assert_eq!(decision, expected, "{known:?} {found:?}");
        }
        let by_hand = decided(&top(None), |facts| (facts.policy, facts.by_hand) = (Known::Leaving, true));
        assert_eq!(by_hand, Decision::Leave, "by hand, though the file is gone");
    }

    #[test]
    fn containers_wait_for_their_workload() {
        let container = case("", stays(&Owner::Nobody), Owner::Undecided, Some(A), Decision::Leave);
        assert_eq!(decided(&container, |facts| facts.is_container = true), Decision::Leave);
    }

    #[test]
    fn a_lost_tag_lets_nobody_choose_a_policy() {
        let made = case("", stays(&policy(A)), Owner::Nobody, Some(B), Decision::Leave);
        assert_eq!(decided(&made, |facts| facts.lost = true), Decision::Follow);
        let outside = case("", stays(&Owner::Nobody), Owner::Nobody, Some(B), Decision::Leave);
        assert_eq!(decided(&outside, |facts| facts.lost = true), tag(B));
    }
}
