//! What a policy is applied to: cgroups.
