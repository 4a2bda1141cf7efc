//! The package for guests, and one of another build to upgrade to.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{build, package};

/// Makes `stockade.deb`, and `stockade-next.deb`: a higher revision of a build whose kernel programs are others.
pub fn build(payload: &Path) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let another = build::another()?;
    let next = package::of(&another, 2, scratch.path())?;
    for (package, name) in [(package::build(1)?, "stockade.deb"), (next, "stockade-next.deb")] {
        fs::copy(&package.deb, payload.join(name))
            .with_context(|| format!("copying {}", package.deb.display()))?;
    }
    Ok(())
}
