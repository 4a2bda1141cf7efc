//! What is said beside the documents.

use std::path::PathBuf;

use crate::policy::{checked::Mode, from, parse::Metadata, protect::Group};

/// What comes from the command line.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// `${workspace}`: may be read, changed and executed below.
    pub workspaces: Vec<PathBuf>,
    /// `${workspace}` as well: may be read and executed below, and never changed.
    pub read_only: Vec<PathBuf>,
    /// Directories in workspaces that are repositories of their own: their places are protected as well.
    pub repositories: Vec<PathBuf>,
    /// `--lift`.
    pub lift: Vec<Group>,
    /// `--profile`.
    pub profiles: Vec<String>,
    /// `--allow-net`.
    pub allow_net: Vec<String>,
    /// `--deny-net`.
    pub deny_net: Vec<String>,
    /// `--allow-listen`.
    pub allow_listen: Vec<String>,
    /// `--allow-read`.
    pub allow_read: Vec<String>,
    /// `--allow-write`.
    pub allow_write: Vec<String>,
    /// `--allow-exec`.
    pub allow_exec: Vec<String>,
    /// `--deny-read`.
    pub deny_read: Vec<String>,
    /// `--deny-write`.
    pub deny_write: Vec<String>,
    /// `--deny-exec`.
    pub deny_exec: Vec<String>,
    /// `--deny-file`.
    pub deny_file: Vec<String>,
    /// The command's own file, and the interpreters it names.
    pub command: Vec<PathBuf>,
    /// What `from:` rules come to, read before.
    pub found: from::Answers,
    /// `--egress-interface`.
    pub egress_interface: Option<String>,
    /// `--allow-capability`.
    pub allow_capability: Vec<String>,
    /// `--allow-process`.
    pub allow_process: Vec<String>,
    /// `--metadata`.
    pub metadata: Option<Metadata>,
    /// `--mode`.
    pub mode: Option<Mode>,
    /// `${home}`.
    pub home: Option<PathBuf>,
    /// `${tmp}`: a directory that only one run uses; may be read and changed below.
    pub tmp: Option<PathBuf>,
    /// `${user}`.
    pub user: Option<String>,
    /// The policy is one of the host's: there is no user, and no flag could give a variable its value.
    pub for_host: bool,
}

#[cfg(test)]
mod tests {
    use stockade_common::file::{ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE};

    use super::*;
    use crate::policy::{
        check::check,
        compile::{compile, path_bits},
        mounts::MountTable,
        parse::{Document, Source},
    };

    #[test]
    fn a_workspace_stands_for_each_and_a_read_only_one_is_never_written() {
        let text = "version = 1\n[files]\nwrite = [\"${workspace}/out/**\", \"/b/**\", \"/c/**\"]\n\
                    deny = [\"${workspace}/.env\"]\nread_only = [\"/c/kept\"]\n";
        let document = Document::new(Source { name: "p.toml".into(), text: text.into() }).unwrap();
        let overlay = Overlay {
            workspaces: vec!["/a".into(), "/a/in".into()],
            read_only: vec!["/b".into()],
            ..Overlay::default()
        };
        let policy = check(&[document], &overlay).unwrap();
        let mounts = MountTable::parse(b"21 1 8:1 / / rw - ext4 a rw\n").unwrap();
        let image = compile(&policy, &mounts).unwrap().0;
        let may = |path: &str| {
            let (allow, deny) = path_bits(&image, 8 << 20 | 1, path.as_bytes()).unwrap();
            allow & !deny & (ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC)
        };
        let all = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC;
        assert_eq!((may("/a/x"), may("/a/in/x")), (all, all));
        assert_eq!((may("/b/x"), may("/b/out/x")), (ACCESS_READ | ACCESS_EXEC, ACCESS_READ | ACCESS_EXEC));
        assert_eq!((may("/a/.env"), may("/a/in/.env"), may("/b/.env")), (0, 0, 0));
        assert_eq!((may("/c/x"), may("/c/kept")), (ACCESS_READ | ACCESS_WRITE, ACCESS_READ));
        assert_eq!(may("/a/in/CLAUDE.md"), ACCESS_READ | ACCESS_EXEC, "an inner one is a root of its own");
        assert_eq!(may("/a/other/CLAUDE.md"), all);
    }

    #[test]
    fn metadata_is_as_the_command_line_says_else_the_file_else_what_is_strictest() {
        use crate::policy::parse::{Document, Source};
        let document = |text: &str| {
            let text = format!("version = 1\n[files]\n{text}");
            Document::new(Source { name: "a".into(), text }).unwrap()
        };
        let (open, guarded) = ("metadata = \"open\"", "metadata = \"guarded\"");
        let metadata = |texts: &[&str], metadata| {
            let documents: Vec<_> = texts.iter().map(|text| document(text)).collect();
            check(&documents, &Overlay { metadata, ..Overlay::default() }).unwrap().metadata
        };
        assert_eq!(metadata(&[], Some(Metadata::Open)), Some(Metadata::Open));
        assert_eq!(metadata(&[guarded], Some(Metadata::Open)), Some(Metadata::Open));
        assert_eq!(metadata(&[guarded, open], None), Some(Metadata::Open));
        assert_eq!(metadata(&[guarded, ""], None), Some(Metadata::Guarded));
        assert_eq!(metadata(&[open, ""], None), None);
    }
}
