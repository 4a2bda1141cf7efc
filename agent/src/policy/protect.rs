//! Protected places: what is written there is executed later by somebody outside the tag. They are read-only over any allow.
//!
//! A place is a path from the root of a repository, or with `**/` in front at any depth below it. Names hold in whatever case
//! they are written, since the repository may lie on a filesystem that makes no difference between them.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stockade_common::file::{ACCESS_MOVE, ACCESS_WRITE};
use toml::Spanned;

use super::parse::Document;

/// `list` of the rules that protect.
pub const LIST: &str = "files.protect";

/// Places that belong together.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Programs that git runs, and what tools install as such.
    GitHooks,
    /// What says which programs git runs; no repository can be made.
    GitConfig,
    /// What a forge runs when it is pushed.
    Ci,
    /// What coding agents take as instructions, and which programs they start.
    Agent,
    /// Tasks and settings that editors and shells act upon when a directory is opened.
    Editor,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::GitHooks, Self::GitConfig, Self::Ci, Self::Agent, Self::Editor];

    /// As policies and `--lift` call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GitHooks => "git-hooks",
            Self::GitConfig => "git-config",
            Self::Ci => "ci",
            Self::Agent => "agent",
            Self::Editor => "editor",
        }
    }

    /// Its places. `.git/modules` has the repositories of submodules, at any depth.
    fn places(self) -> &'static [&'static str] {
        match self {
            Self::GitHooks => &[
                "**/.git/hooks/**",
                "**/.git/modules/**/hooks/**",
                ".githooks/**",
                ".husky/**",
                ".pre-commit-config.yaml",
                "lefthook.yml",
                ".lefthook.yml",
            ],
            // A repository is its `.git`, which may be a file that names another directory, as `commondir` does in it.
            Self::GitConfig => &[
                "**/.git",
                "**/.git/config",
                "**/.git/config.worktree",
                "**/.git/commondir",
                "**/.git/worktrees/*/config.worktree",
                "**/.git/worktrees/*/commondir",
                "**/.git/modules/**/config",
                "**/.git/modules/**/config.worktree",
                "**/.git/modules/**/commondir",
            ],
            Self::Ci => &[
                ".github/**",
                ".gitlab-ci.yml",
                ".woodpecker*",
                ".woodpecker*/**",
                ".circleci/**",
                ".forgejo/**",
                ".gitea/**",
                ".buildkite/**",
                "Jenkinsfile",
                "azure-pipelines.yml",
                "bitbucket-pipelines.yml",
                ".travis.yml",
                ".drone.yml",
            ],
            Self::Agent => &[
                ".claude/**",
                "CLAUDE.md",
                "CLAUDE.local.md",
                "AGENTS.md",
                ".mcp.json",
                ".codex/**",
                ".gemini/**",
                "GEMINI.md",
                ".aider*",
                ".aider*/**",
                ".openhands/**",
                ".cursor/**",
                ".cursorrules",
            ],
            Self::Editor => &[
                ".vscode/**",
                "*.code-workspace",
                ".devcontainer/**",
                ".devcontainer.json",
                ".idea/**",
                ".zed/**",
                ".envrc",
                ".exrc",
                ".nvim.lua",
            ],
        }
    }

    /// Directories that stay where they are, for what is protected at any depth in them.
    fn stays(self) -> &'static [&'static str] {
        match self {
            Self::GitHooks | Self::GitConfig => &["**/.git/modules/**"],
            Self::Ci | Self::Agent | Self::Editor => &[],
        }
    }

    /// Globs for the places in a directory, which is a glob without a slash at its end, and what is denied there. What is
    /// protected at any depth is, in a directory that is `nested` in another, already so by that.
    pub(super) fn globs(self, directory: &str, nested: bool) -> Vec<(String, u32)> {
        let denied = |access| move |place: &&'static str| (*place, access);
        let places = self.places().iter().map(denied(ACCESS_WRITE));
        let stays = self.stays().iter().map(denied(ACCESS_MOVE));
        let mut globs = Vec::new();
        for (place, access) in places.chain(stays) {
            let root = place.strip_prefix("**/");
            // Links are followed up to the first wildcard: the repository at the root is named without one.
            if let Some(root) = root.filter(|root| !root.contains("/**/")) {
                globs.push((format!("{directory}/{root}"), access));
            }
            if root.is_none() || !nested {
                globs.push((format!("{directory}/{place}").replace("/**/**/", "/**/"), access));
            }
        }
        globs
    }
}

/// What is protected, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protection {
    /// Groups, without those that are lifted.
    pub groups: Vec<Group>,
    /// Globs of directories.
    pub directories: Vec<String>,
}

/// The groups that documents and flags leave: all, unless a document says which; those that are lifted are not among them.
pub(super) fn groups(documents: &[Document], lift: &[Group]) -> Vec<Group> {
    let files = || documents.iter().map(|document| &document.policy.files);
    let written: Vec<Group> =
        files().filter_map(|files| files.protect.as_ref()).flatten().map(Spanned::get_ref).copied().collect();
    let all = files().all(|files| files.protect.is_none());
    let lifted: Vec<Group> = files().flat_map(|files| &files.lift).map(Spanned::get_ref).copied().collect();
    let stays =
        |group: &Group| (all || written.contains(group)) && !lifted.contains(group) && !lift.contains(group);
    Group::ALL.into_iter().filter(stays).collect()
}

/// The group that a rule's text names, if it is one that protects.
#[must_use]
pub fn group_of(list: &str, text: &str) -> Option<Group> {
    Group::ALL.into_iter().find(|group| list == LIST && group.name() == text)
}

#[cfg(test)]
mod tests {
    use stockade_common::{event::reason, file::ACCESS_READ};

    use super::*;
    use crate::policy::{
        check::{Overlay, check},
        compile::compile,
        image::MapImage,
        mounts::MountTable,
        parse::Source,
        verdict::{self, Verdict},
    };

    const MOUNTS: &[u8] = b"21 1 8:1 / / rw - ext4 a rw\n";
    const ROOT: u32 = 8 << 20 | 1;

    fn image(files: &str, overlay: Overlay) -> MapImage {
        let text = format!("version = 1\n[files]\nwrite = [\"/tmp/**\"]\n{files}\n");
        let document = Document::new(Source { name: "p.toml".into(), text }).unwrap();
        let overlay = Overlay { workspaces: vec!["/ws".into()], ..overlay };
        let policy = check(&[document], &overlay).unwrap();
        compile(&policy, &MountTable::parse(MOUNTS).unwrap()).unwrap().0
    }

    fn plain() -> MapImage {
        image("", Overlay::default())
    }

    fn ask(image: &MapImage, path: &str, access: u32) -> Verdict {
        verdict::file(image, ROOT, path.as_bytes(), access, 1)
    }

    fn writes(image: &MapImage, path: &str) -> bool {
        ask(image, path, ACCESS_WRITE).allows()
    }

    #[test]
    fn places_are_read_and_not_written() {
        let image = plain();
        for path in [
            "/ws/.git/hooks",
            "/ws/.git/hooks/pre-commit",
            "/ws/.git/config",
            "/ws/.git/commondir",
            "/ws/.git",
            "/ws/sub/.git",
            "/ws/a/b/.git/hooks/x",
            "/ws/.git/modules/lib/x/hooks/post-checkout",
            "/ws/.git/modules/a/modules/b/config",
            "/ws/.github",
            "/ws/.github/workflows/ci.yml",
            "/ws/.woodpecker.yml",
            "/ws/.woodpecker/a.yml",
            "/ws/Jenkinsfile",
            "/ws/CLAUDE.md",
            "/ws/.aider.conf.yml",
            "/ws/.claude/settings.json",
            "/ws/.vscode/tasks.json",
            "/ws/x.code-workspace",
            "/ws/.envrc",
        ] {
            assert!(!writes(&image, path), "{path}");
            assert!(ask(&image, path, ACCESS_READ).allows(), "{path}");
        }
        for path in [
            "/ws/src/main.rs",
            "/ws/.git/index",
            "/ws/.git/objects/aa/bb",
            "/ws/.git/refs/heads/hooks",
            "/ws/.git/modules/lib/HEAD",
            "/ws/.gitignore",
            "/ws/hooks/x",
            "/ws/node_modules/x/.github/FUNDING.yml",
            "/ws/node_modules/x/AGENTS.md",
            "/tmp/x/.git/config",
        ] {
            assert!(writes(&image, path), "{path}");
        }
    }

    #[test]
    fn the_way_to_a_place_stays() {
        let image = plain();
        let moved = |path| ask(&image, path, ACCESS_READ | ACCESS_WRITE | ACCESS_MOVE);
        for path in ["/ws/.git", "/ws/.git/modules", "/ws/.git/modules/lib", "/ws/.git/hooks", "/ws/a/.git"] {
            assert!(!moved(path).allows(), "{path}");
        }
        assert_eq!(moved("/ws/.git/modules/a/b").reason, reason::MOVES_DENIED);
        assert!(moved("/ws/src").allows(), "other directories can be renamed, to other directories too");
        assert!(!verdict::renames_strictly(&image, ROOT));
    }

    #[test]
    fn case_hides_no_place() {
        let image = plain();
        for path in ["/ws/.GIT/Hooks/x", "/ws/claude.MD", "/ws/.git/hoo\u{212a}\u{17f}/x", "/WS/.git/config"]
        {
            assert!(!writes(&image, path), "{path}");
        }
    }

    #[test]
    fn groups_are_lifted_by_file_and_flag() {
        let by_file = image("lift = [\"git-hooks\", \"ci\"]", Overlay::default());
        assert!(writes(&by_file, "/ws/.git/hooks/x") && writes(&by_file, "/ws/.github/x"));
        assert!(!writes(&by_file, "/ws/.git/config") && !writes(&by_file, "/ws/.git"));
        let lift = vec![Group::GitHooks, Group::GitConfig];
        let by_flag = image("", Overlay { lift, ..Overlay::default() });
        assert!(writes(&by_flag, "/ws/.git/config") && writes(&by_flag, "/ws/sub/.git"));
        assert!(!writes(&by_flag, "/ws/CLAUDE.md"));
        let some = image("protect = [\"agent\"]", Overlay::default());
        assert!(writes(&some, "/ws/.github/x") && !writes(&some, "/ws/CLAUDE.md"));
        assert!(writes(&image("protect = []", Overlay::default()), "/ws/CLAUDE.md"));
    }

    #[test]
    fn repositories_and_named_directories_are_protected_too() {
        let overlay = Overlay { repositories: vec!["/ws/lib".into()], ..Overlay::default() };
        let image = image("protect_in = [\"/tmp/job-*\"]", overlay);
        assert!(!writes(&image, "/ws/lib/.github/x") && !writes(&image, "/tmp/job-7/.github/x"));
        assert!(writes(&image, "/ws/other/.github/x") && writes(&image, "/tmp/other/.github/x"));
        // It cannot be carried out of the workspace, changed there and carried back.
        let moved = ask(&image, "/ws/lib", ACCESS_READ | ACCESS_WRITE | ACCESS_MOVE);
        assert_eq!(moved.reason, reason::MOVES_DENIED);
    }

    #[test]
    fn a_place_is_named_by_its_group() {
        let image = plain();
        let rule = &image.rules[ask(&image, "/ws/.git/hooks/x", ACCESS_WRITE).rule as usize];
        assert_eq!((rule.text.as_str(), rule.source.as_str()), ("git-hooks", "a protected place"));
        assert_eq!(group_of(&rule.list, &rule.text), Some(Group::GitHooks));
        assert_eq!(group_of("files.write", "git-hooks"), None);
    }
}
