//! Why a host could not be used over SSH, in words with a remedy. Never a key or a password in them.

use berth_infra::ProviderError;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SshError {
    #[error("`{host}` does not answer: {reason}")]
    Unreachable { host: String, reason: String },
    #[error("`{host}` shows the host key {seen}, and {pinned} was expected")]
    HostKeyChanged { host: String, seen: String, pinned: String },
    #[error("nobody has said yet what the host key of `{host}` is; it shows {seen}")]
    HostKeyUnknown { host: String, seen: String },
    #[error("`{host}` does not let `{user}` in with this key")]
    KeyRefused { host: String, user: String },
    #[error("the SSH key is unusable: {reason}")]
    BadKey { reason: String },
    #[error("`{user}` of `{host}` may not do what root may without being asked for a password")]
    NoSudo { host: String, user: String },
    #[error("`{host}` {what}")]
    Unsupported { host: String, what: String },
    #[error("the connection to `{host}` broke")]
    Lost { host: String },
    #[error("{doing} on `{host}` ended with {status}: {said}")]
    Failed { host: String, doing: String, status: u32, said: String },
}

impl SshError {
    pub fn hint(&self) -> String {
        match self {
            Self::Unreachable { .. } => {
                "look at its name, its port for SSH, and the firewalls in between; nothing was changed".to_owned()
            }
            Self::HostKeyChanged { host, .. } => format!(
                "somebody else may answer in its place. If `{host}` was set up anew, name its new host key with \
                 `--host-key`, as `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints it there"
            ),
            Self::HostKeyUnknown { .. } => {
                "compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on the host, and name \
                 it with `--host-key`"
                    .to_owned()
            }
            Self::KeyRefused { host, user } => format!(
                "`ssh-copy-id -i KEY.pub {user}@{host}` puts the key there; `--user` names another user, `--key-file` \
                 another key"
            ),
            Self::BadKey { .. } => {
                "`ssh-keygen -t ed25519 -N '' -f FILE` makes one; a key with a passphrase is used through an SSH agent"
                    .to_owned()
            }
            Self::NoSudo { user, .. } => format!(
                "as root there: `echo '{user} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/berth && chmod 440 \
                 /etc/sudoers.d/berth`, or come in as root"
            ),
            Self::Unsupported { .. } => "Debian 12, Ubuntu 22.04 and newer are served, on the same processor as this \
                                         program was built for"
                .to_owned(),
            Self::Lost { .. } => "the same command once more goes on where this one ended".to_owned(),
            Self::Failed { said, .. } if said.contains("No space left on device") => {
                "its disk is full: make room there (`df -h` shows where); the same once more goes on where this one ended"
                    .to_owned()
            }
            Self::Failed { .. } => "what it said is above; nothing after this step was begun".to_owned(),
        }
    }

    /// Whether the same can succeed without anybody changing anything.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. })
    }

    /// `what` was being asked for.
    pub(super) fn about(&self, what: &str) -> ProviderError {
        if self.passes() {
            ProviderError::NoAnswer { what: format!("{what} ({self})") }
        } else {
            ProviderError::Refused { what: what.to_owned(), reason: format!("{self}; {}", self.hint()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SshError;
    use berth_infra::ErrorKind;

    #[test]
    fn a_program_that_finds_no_room_on_a_host_is_told_with_what_makes_room() {
        let failed = |said: &str| SshError::Failed {
            host: "fra-1".to_owned(),
            doing: "bringing this program".to_owned(),
            status: 1,
            said: said.to_owned(),
        };
        let full = failed("cat: write error: No space left on device");
        assert!(full.hint().contains("make room there"), "{}", full.hint());
        let told = full.about("cell one");
        assert!(told.kind() == ErrorKind::Caller && !told.retryable(), "{told}");
        assert!(told.to_string().contains("No space left") && told.to_string().contains("make room"), "{told}");
        assert!(!failed("cat: not found").hint().contains("room"));
    }
}
