//! How a command fails: with words for people and an exit code for scripts.

use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub enum Failure {
    /// The command line, a file or a variable is wrong: trying again cannot help.
    Usage(String),
    /// Something went wrong while running.
    Runtime(String),
}

impl Failure {
    /// A [`Failure::Usage`] with these words.
    pub fn usage(words: impl fmt::Display) -> Failure {
        Failure::Usage(words.to_string())
    }

    /// A [`Failure::Runtime`] with these words.
    pub fn runtime(words: impl fmt::Display) -> Failure {
        Failure::Runtime(words.to_string())
    }

    /// 1 or 2.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Runtime(_) => ExitCode::from(1),
            Failure::Usage(_) => ExitCode::from(2),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Usage(words) | Failure::Runtime(words)) = self;
        f.write_str(words)
    }
}
