//! The peer: Landlock, which a process puts on itself.

use std::{fs, io};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};

use super::{FOLDER, MOVED, PORT, PROGRAM};

/// Handles every access of the third ABI and TCP connects, with `rules` path rules, and binds the calling process.
///
/// Kernel 6.7 for the network part; on older ones only files are restricted.
pub fn restrict(rules: u32) -> io::Result<()> {
    let failed = |error: RulesetError| io::Error::other(error);
    let all = AccessFs::from_all(ABI::V3);
    let mut ruleset = Ruleset::default()
        .handle_access(all)
        .and_then(|ruleset| ruleset.handle_access(AccessNet::ConnectTcp))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(NetPort::new(PORT, AccessNet::ConnectTcp)))
        .map_err(failed)?;
    let moved = MOVED[0].rsplit_once('/').map_or("/", |(folder, _)| folder).to_owned();
    let beneath = FOLDER.rsplitn(4, '/').last().unwrap_or("/").to_owned();
    let mut paths = vec![beneath, moved, "/dev".to_owned(), PROGRAM.to_owned()];
    for number in paths.len() as u32..rules {
        let path = format!("/perf/rules/{number}");
        fs::create_dir_all(&path)?;
        paths.push(path);
    }
    for path in paths {
        let access = if fs::metadata(&path)?.is_dir() { all } else { AccessFs::from_file(ABI::V3) };
        let rule = PathBeneath::new(PathFd::new(&path).map_err(io::Error::other)?, access);
        ruleset = ruleset.add_rule(rule).map_err(failed)?;
    }
    let status = ruleset.restrict_self().map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(io::Error::other("Landlock is not active in this kernel"));
    }
    Ok(())
}
