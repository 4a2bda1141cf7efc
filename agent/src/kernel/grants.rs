//! What names allow, written into policies that are active.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use stockade_common::net::{Grant, Granted, PrefixData};

use super::{Scope, sys};
use crate::dns::Kernel;

/// For each scope the `NAMES` map of the policy that it is held to.
#[derive(Debug, Default)]
pub struct Grants(Mutex<HashMap<u32, OwnedFd>>);

impl Grants {
    fn maps(&self) -> MutexGuard<'_, HashMap<u32, OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on what names allow a scope goes there.
    pub fn set(&self, scope: Scope, names: OwnedFd) {
        self.maps().insert(scope.0, names);
    }

    /// Names allow a scope nothing any more.
    pub fn forget(&self, scope: Scope) {
        self.maps().remove(&scope.0);
    }
}

impl Kernel for Grants {
    fn grant(&self, scope: u32, address: PrefixData, granted: &Granted) -> io::Result<()> {
        let maps = self.maps();
        let names = maps.get(&scope).ok_or_else(|| io::Error::other("no policy with names holds the scope"))?;
        write(names.as_fd(), address, granted)
    }

    fn revoke(&self, scope: u32, address: PrefixData) -> io::Result<()> {
        match self.maps().get(&scope) {
            Some(names) => sys::map_delete(names.as_fd(), &address).map(drop),
            None => Ok(()),
        }
    }
}

/// Replaces what names allow for an address.
pub(super) fn write(names: BorrowedFd<'_>, address: PrefixData, granted: &Granted) -> io::Result<()> {
    let mut value = Vec::with_capacity(size_of::<Granted>());
    for Grant { low, high, rule, expires } in granted.grants {
        value.extend([low, high, rule, expires].into_iter().flat_map(u32::to_ne_bytes));
    }
    sys::map_update(names, &address, &value)
}
