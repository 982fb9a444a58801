//! Why a role of the program did not start, or had to stop: what was being done, the cause, what to do.

use std::fmt::Display;

/// Told to whoever started the program.
#[derive(Debug)]
pub struct Failure {
    cause: anyhow::Error,
    hint: String,
    /// 1 the caller's, 2 ours.
    pub status: u8,
}

impl Failure {
    pub fn request(what: impl Display, hint: impl Into<String>) -> Self {
        Self { cause: anyhow::anyhow!("{what}"), hint: hint.into(), status: 1 }
    }

    pub fn ours(
        cause: impl std::error::Error + Send + Sync + 'static,
        doing: impl Display,
        hint: impl Into<String>,
    ) -> Self {
        Self { cause: anyhow::Error::new(cause).context(doing.to_string()), hint: hint.into(), status: 2 }
    }

    /// What went wrong, with its causes.
    #[cfg(feature = "ssh")]
    pub fn what(&self) -> String {
        format!("{:#}", self.cause)
    }

    /// `error: …` and `hint: …`, as stderr shows them.
    pub fn screen(&self) -> String {
        let mut text = format!("error: {:#}\n", self.cause);
        if !self.hint.is_empty() {
            text.push_str("hint: ");
            text.push_str(&self.hint);
            text.push('\n');
        }
        text
    }
}

/// For errors about which there is nothing more to say.
pub trait FailureExt<T> {
    fn ours(self, doing: &'static str) -> Result<T, Failure>;
}

impl<T, E: std::error::Error + Send + Sync + 'static> FailureExt<T> for Result<T, E> {
    fn ours(self, doing: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::ours(error, doing, ""))
    }
}
