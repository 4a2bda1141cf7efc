//! What the servers offer: a repository with a submodule, and one small package for each of the package managers.

use std::fs;

use super::exec::{Checked, shell};
use super::network::OFFERS;

/// Makes all of it.
pub fn make() -> Checked {
    let hosts = format!("mkdir -p {OFFERS} && cd {OFFERS}");
    for (what, script) in [
        ("repositories", REPOSITORIES),
        ("a page", PAGE),
        ("a wheel", WHEEL),
        ("a crate", CRATE),
        ("a package for npm", TARBALL),
        ("a package for apt", DEB),
    ] {
        shell(&format!("set -e; {hosts}; {script}")).map_err(|e| format!("making {what}: {e}"))?;
    }
    Ok(())
}

/// A file of the user's.
pub fn file(path: &str, text: &str) -> Checked {
    let write = || {
        if let Some((folder, _)) = path.rsplit_once('/') {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)
    };
    write().map_err(|e: std::io::Error| format!("{path}: {e}"))
}

const PAGE: &str = "mkdir -p api.programs.test half.programs.test
echo hello > api.programs.test/hello
cp api.programs.test/hello half.programs.test
# As it is called by who has search domains.
ln -sfn api.programs.test api; ln -sfn api.programs.test alias.programs.test; ln -sfn api.programs.test api.programs";

const REPOSITORIES: &str = "mkdir -p git.programs.test code.programs.test work
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@programs.test GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@programs.test
git init -q work/library; cd work/library; echo library > library.txt; git add .; git commit -qm One
library=$(git rev-parse HEAD); cd ../..
git init -q work/greeter; cd work/greeter; echo hello > greeting.txt
printf '[submodule \"library\"]\\n\\tpath = library\\n\\turl = https://code.programs.test/library.git\\n' > .gitmodules
git add .; git update-index --add --cacheinfo 160000,$library,library; git commit -qm One; cd ../..
git clone -q --bare work/greeter git.programs.test/greeter.git
git clone -q --bare work/library code.programs.test/library.git
for repository in git.programs.test/greeter.git code.programs.test/library.git; do git -C $repository update-server-info; done";

/// The index is at one host, the file at another.
const WHEEL: &str = "mkdir -p index.programs.test/simple/greeter files.programs.test work/wheel/greeter-1.0.dist-info
cd work/wheel; mkdir -p greeter; echo 'GREETING = \"hello\"' > greeter/__init__.py
printf 'Metadata-Version: 2.1\\nName: greeter\\nVersion: 1.0\\n' > greeter-1.0.dist-info/METADATA
printf 'Wheel-Version: 1.0\\nGenerator: sh\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n' > greeter-1.0.dist-info/WHEEL
printf 'greeter/__init__.py,,\\ngreeter-1.0.dist-info/METADATA,,\\ngreeter-1.0.dist-info/WHEEL,,\\ngreeter-1.0.dist-info/RECORD,,\\n' > greeter-1.0.dist-info/RECORD
python3 -m zipfile -c ../../files.programs.test/greeter-1.0-py3-none-any.whl greeter greeter-1.0.dist-info; cd ../..
echo '<!DOCTYPE html><a href=\"https://files.programs.test/greeter-1.0-py3-none-any.whl\">greeter-1.0-py3-none-any.whl</a>' > index.programs.test/simple/greeter/index.html";

const CRATE: &str = "mkdir -p crates.programs.test/index/gr/ee static.programs.test/crates/greeter/1.0.0 work/greeter-1.0.0/src
echo '{\"dl\": \"https://static.programs.test/crates\"}' > crates.programs.test/index/config.json
cd work; printf '[package]\\nname = \"greeter\"\\nversion = \"1.0.0\"\\nedition = \"2021\"\\n' > greeter-1.0.0/Cargo.toml
echo 'pub const GREETING: &str = \"hello\";' > greeter-1.0.0/src/lib.rs
tar -czf ../static.programs.test/crates/greeter/1.0.0/download greeter-1.0.0; cd ..
sum=$(sha256sum static.programs.test/crates/greeter/1.0.0/download | cut -d' ' -f1)
echo '{\"name\":\"greeter\",\"vers\":\"1.0.0\",\"deps\":[],\"cksum\":\"'$sum'\",\"features\":{},\"yanked\":false}' > crates.programs.test/index/gr/ee/greeter";

const TARBALL: &str = "mkdir -p registry.programs.test tarballs.programs.test work/npm/package
cd work/npm; echo '{\"name\": \"greeter\", \"version\": \"1.0.0\", \"main\": \"index.js\"}' > package/package.json
echo 'module.exports = \"hello\";' > package/index.js; tar -czf ../../tarballs.programs.test/greeter-1.0.0.tgz package; cd ../..
sum=$(sha1sum tarballs.programs.test/greeter-1.0.0.tgz | cut -d' ' -f1)
echo '{\"name\":\"greeter\",\"dist-tags\":{\"latest\":\"1.0.0\"},\"versions\":{\"1.0.0\":{\"name\":\"greeter\",\"version\":\"1.0.0\",\"main\":\"index.js\",\"dist\":{\"shasum\":\"'$sum'\",\"tarball\":\"https://tarballs.programs.test/greeter-1.0.0.tgz\"}}}}' > registry.programs.test/greeter";

/// A flat repository, whose packages are at another host.
const DEB: &str = "mkdir -p deb.programs.test pool.programs.test/pool work/deb/DEBIAN work/deb/usr/share/greeter
echo hello > work/deb/usr/share/greeter/greeting.txt
printf 'Package: greeter\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: a <a@programs.test>\\nDescription: greets\\n' > work/deb/DEBIAN/control
dpkg-deb --build --root-owner-group work/deb pool.programs.test/pool/greeter.deb > /dev/null
file=pool.programs.test/pool/greeter.deb; packages=deb.programs.test/Packages
{ cat work/deb/DEBIAN/control; echo Filename: pool/greeter.deb; echo Size: $(stat -c %s $file); echo SHA256: $(sha256sum $file | cut -d' ' -f1); echo; } > $packages
printf 'Suite: programs\\nSHA256:\\n %s %s Packages\\n' $(sha256sum $packages | cut -d' ' -f1) $(stat -c %s $packages) > deb.programs.test/Release";
