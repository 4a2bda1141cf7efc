//! What is wrong with a policy: where, why, and what to write instead.

use std::{fmt, ops::Range};

use miette::{LabeledSpan, MietteDiagnostic, NamedSource, Report};

/// One complaint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// File or flag.
    pub source: String,
    /// The whole text it stands in.
    pub text: String,
    /// Where in the text.
    pub span: Option<Range<usize>>,
    /// What to do.
    pub help: Option<String>,
}

/// All complaints about an input; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// A single complaint without a place in a text.
    #[must_use]
    pub fn plain(source: &str, message: impl Into<String>, help: Option<&str>) -> Self {
        Self(vec![Diagnostic {
            message: message.into(),
            source: source.to_owned(),
            text: String::new(),
            span: None,
            help: help.map(str::to_owned),
        }])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index != 0 {
                writeln!(f)?;
            }
            let Diagnostic { message, source, text, span, help } = diagnostic;
            let mut report = MietteDiagnostic::new(message.clone());
            if let Some(help) = help {
                report = report.with_help(help.clone());
            }
            match span {
                Some(span) => {
                    let report = report.with_label(LabeledSpan::at(span.clone(), "here"));
                    let named = NamedSource::new(source, text.clone());
                    write!(f, "{:?}", Report::new(report).with_source_code(named))?;
                }
                None => write!(f, "{source}: {:?}", Report::new(report))?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
