//! Built-in profiles: what programs of a kind need, and no secrets that lie beside it.

use super::{
    diagnostic::Diagnostics,
    extend::names_file,
    parse::{Document, Source},
    rule::Refusal,
    suggest::closest,
};

/// What every policy builds on.
pub const BASE: &str = "base";

/// A profile.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// As `extends` and `--profile` call it.
    pub name: &'static str,
    /// A policy.
    text: &'static str,
}

macro_rules! profiles {
    ($($name:literal),*) => {
        &[$(Profile { name: $name, text: include_str!(concat!("profiles/", $name, ".toml")) }),*]
    };
}

/// All of them: each behind those it builds on.
pub const PROFILES: &[Profile] =
    profiles!["base", "shell", "tls", "git", "c", "rust", "python", "node", "java", "container"];

impl Profile {
    /// One line about it: the first of its text.
    #[must_use]
    pub fn about(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches('#').trim()
    }

    fn document(&self) -> Result<Document, Diagnostics> {
        Document::new(Source { name: format!("profile {}", self.name), text: self.text.into() })
    }
}

/// Why there is no profile of a name, if there is none.
///
/// # Errors
/// With those that there are, and one that was probably meant.
pub fn check(name: &str) -> Result<(), Refusal> {
    let names = || PROFILES.iter().map(|profile| profile.name);
    if names().any(|known| known == name) {
        return Ok(());
    }
    let meant = closest(name, names()).map_or_else(String::new, |meant| format!("did you mean {meant:?}? "));
    let built_in = names().collect::<Vec<_>>().join(", ");
    Err(Refusal {
        message: format!("there is no profile {name:?}"),
        help: Some(format!("{meant}built in: {built_in}; a policy file is named with a `/` or `.toml`")),
    })
}

/// The profiles that documents and flags ask for, with all that they build on; `base` always is one.
///
/// # Errors
/// If a profile is no policy.
pub fn wanted(documents: &[Document], flags: &[String]) -> Result<Vec<Document>, Diagnostics> {
    let extends = |document: &Document| {
        let entries = document.policy.extends.iter().map(|entry| entry.get_ref().clone());
        entries.filter(|entry| !names_file(entry)).collect::<Vec<_>>()
    };
    let mut names: Vec<String> = documents.iter().flat_map(extends).chain(flags.iter().cloned()).collect();
    names.push(BASE.to_owned());
    let mut found = Vec::new();
    // Backwards: what a profile builds on stands before it.
    for profile in PROFILES.iter().rev() {
        if names.iter().any(|name| name == profile.name) {
            let document = profile.document()?;
            names.extend(extends(&document));
            found.push(document);
        }
    }
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use stockade_common::file::{ACCESS_CONNECT, ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE};

    use super::*;
    use crate::policy::{
        check::{self, Overlay},
        compile::{compile, path_bits},
        image::MapImage,
        mounts::MountTable,
    };

    /// Of the user, and beside what profiles open.
    const SECRETS: &[&str] = &[
        "/home/u/.ssh/id_ed25519",
        "/home/u/.ssh/config",
        "/home/u/.aws/credentials",
        "/home/u/.config/gcloud/credentials.db",
        "/home/u/.azure/msal_token_cache.json",
        "/home/u/.kube/config",
        "/home/u/.docker/config.json",
        "/home/u/.config/containers/auth.json",
        "/home/u/.netrc",
        "/home/u/.git-credentials",
        "/home/u/.config/git/credentials",
        "/home/u/.config/gh/hosts.yml",
        "/home/u/.cargo/credentials.toml",
        "/home/u/.cargo/credentials",
        "/home/u/.npmrc",
        "/home/u/.yarnrc.yml",
        "/home/u/.pypirc",
        "/home/u/.config/pip/pip.conf",
        "/home/u/.m2/settings.xml",
        "/home/u/.m2/settings-security.xml",
        "/home/u/.gradle/gradle.properties",
        "/home/u/.gnupg/private-keys-v1.d/x.key",
        "/home/u/.password-store/x.gpg",
        "/home/u/.local/share/keyrings/login.keyring",
        "/home/u/.mozilla/firefox/x.default/logins.json",
        "/home/u/.config/google-chrome/Default/Login Data",
        "/home/u/.config/chromium/Default/Cookies",
        "/home/u/.bash_history",
        "/home/u/.zsh_history",
        "/home/u/.python_history",
        "/home/u/.node_repl_history",
        "/home/u/.bashrc",
        "/home/u/.profile",
        "/home/u/Documents/x",
        "/home/other/.gitconfig",
        "/home/other/.cargo/registry/x",
        "/root/.ssh/id_rsa",
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/ssl/private/key.pem",
        "/etc/pki/tls/private/key.pem",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/containers/certs.d/x/client.key",
        "/etc/sudoers",
        "/run/docker.sock",
        "/run/user/1000/bus",
        "/proc/1/environ",
        "/proc/self/environ",
        "/proc/self/mem",
        "/var/lib/x",
        "/srv/x",
        "/tmp/x",
    ];

    fn image(profile: &str) -> MapImage {
        let overlay =
            Overlay { profiles: vec![profile.into()], home: Some("/home/u".into()), ..Overlay::default() };
        let mounts = MountTable::parse(b"21 1 8:1 / / rw - ext4 a rw\n").unwrap();
        compile(&check::check(&[], &overlay).unwrap(), &mounts).unwrap().0
    }

    fn bits(image: &MapImage, path: &str) -> u32 {
        path_bits(image, 8 << 20 | 1, path.as_bytes()).unwrap().0
    }

    #[test]
    fn no_profile_opens_a_secret() {
        for Profile { name, .. } in PROFILES {
            let image = image(name);
            let any = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC | ACCESS_CONNECT;
            let open: Vec<&&str> = SECRETS.iter().filter(|path| bits(&image, path) & any != 0).collect();
            assert!(open.is_empty(), "{name}: {open:?}");
        }
    }

    #[test]
    fn nothing_that_is_executed_can_be_written() {
        for Profile { name, .. } in PROFILES {
            let image = image(name);
            for path in ["/usr/bin/git", "/usr/bin/python3", "/usr/lib/x/y.so", "/home/u/.cargo/bin/cargo"] {
                assert_eq!(bits(&image, path) & ACCESS_WRITE, 0, "{name}: {path}");
            }
        }
    }

    #[test]
    fn profiles_bring_what_they_build_on() {
        let rust = image("rust");
        let exec = ACCESS_READ | ACCESS_EXEC;
        for path in ["/usr/bin/sh", "/usr/bin/cc", "/home/u/.cargo/bin/cargo", "/usr/lib/gcc/x/12/cc1"] {
            assert_eq!(bits(&rust, path), exec, "{path}");
        }
        assert_eq!(bits(&rust, "/home/u/.cargo/registry/src/x"), ACCESS_READ | ACCESS_WRITE);
        assert_eq!(bits(&rust, "/etc/ssl/certs/x.pem"), ACCESS_READ);
        assert_eq!(bits(&rust, "/usr/bin/git"), 0);
        assert_eq!(bits(&image("git"), "/usr/lib/git-core/git-remote-https"), exec);
        assert_eq!(bits(&image("base"), "/usr/bin/sh"), 0);
    }

    #[test]
    fn each_has_a_line_about_it_and_builds_on_earlier_ones() {
        for (number, profile) in PROFILES.iter().enumerate() {
            assert!(profile.about().ends_with('.'), "{}", profile.name);
            let document = profile.document().unwrap();
            assert_eq!(document.policy.name.as_deref(), Some(profile.name));
            for entry in &document.policy.extends {
                let place = PROFILES.iter().position(|known| known.name == entry.get_ref());
                assert!(place.is_some_and(|place| place < number), "{}", profile.name);
            }
        }
    }

    #[test]
    fn what_was_meant_is_suggested() {
        assert!(check("rust").is_ok());
        assert!(check("rsut").unwrap_err().help.unwrap().contains("did you mean \"rust\"?"));
    }
}
