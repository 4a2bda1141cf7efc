//! A process of the same user outside the tag, and shared memory that is its.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Ended when it is dropped.
pub struct Fellow {
    process: Child,
    /// Of its shared memory.
    pub key: i32,
    /// The number of that.
    pub segment: i32,
}

impl Fellow {
    /// Of a user; nothing but a permission of the policy is to be in the way.
    pub fn start(uid: u32) -> io::Result<Self> {
        let mut sleep = Command::new("sleep");
        let process = sleep.arg("3600").stdin(Stdio::null()).uid(uid).gid(uid).spawn()?;
        let key = 0x5743 + uid.cast_signed();
        // SAFETY: takes numbers only.
        let segment = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o666) };
        if segment < 0 {
            return Err(io::Error::last_os_error());
        }
        let fellow = Self { process, key, segment };
        // SAFETY: all zero is a value of it.
        let mut state: libc::shmid_ds = unsafe { std::mem::zeroed() };
        (state.shm_perm.uid, state.shm_perm.gid, state.shm_perm.mode) = (uid, uid, 0o666);
        // SAFETY: a live struct, which is only read.
        let set = unsafe { libc::shmctl(segment, libc::IPC_SET, &raw mut state) };
        if set == 0 { Ok(fellow) } else { Err(io::Error::last_os_error()) }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Fellow {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // SAFETY: takes numbers only.
        unsafe { libc::shmctl(self.segment, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}
