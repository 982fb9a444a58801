//! What can go wrong between a caller and the server, and whose fault it is.

use berth_wire::Problem;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{url}` is not the address of a server: {why}")]
    BadUrl { url: String, why: &'static str },
    #[error("the key has characters that no key has")]
    BadKey,
    #[error("no server answers at {url}")]
    Unreachable {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error("what answers at {url} could not prove that it is that server")]
    Unproved {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error("what is to vouch for servers is no PEM of certificates")]
    BadAuthority,
    #[error("the server at {url} took longer than {limit_s} s to answer")]
    TooSlow { url: String, limit_s: u64 },
    #[error("the connection to {url} broke before the answer was whole")]
    Broken {
        url: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the file from {url} was cut off")]
    CutOff { url: String },
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    #[error("what answers at {url} (status {status}) is not a Berth server")]
    NotBerth { url: String, status: u16 },
    #[error("the server's answer is not what this version of the program understands")]
    Unreadable {
        #[source]
        source: serde_json::Error,
    },
}

/// Whose fault an error is: decides the exit status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong: sending it again changes nothing.
    Caller,
    /// The server, or the way to it.
    Server,
}

impl ClientError {
    pub fn fault(&self) -> Fault {
        match self {
            Self::BadUrl { .. } | Self::BadKey | Self::BadAuthority => Fault::Caller,
            Self::Refused(problem) if problem.status < 500 => Fault::Caller,
            Self::Refused(_)
            | Self::Unreachable { .. }
            | Self::Unproved { .. }
            | Self::TooSlow { .. }
            | Self::Broken { .. }
            | Self::CutOff { .. }
            | Self::NotBerth { .. }
            | Self::Unreadable { .. } => Fault::Server,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::BadUrl { .. } => Some("for example `http://127.0.0.1:7600`".to_owned()),
            Self::BadKey => Some("a key looks like `bk_…` and has no spaces or line ends".to_owned()),
            Self::Unreachable { .. } => {
                Some("start one with `berth serve`, or say where it is with BERTH_URL".to_owned())
            }
            Self::Unproved { .. } => Some(
                "its certificate has to bear the URL's host, and an authority of this system has to vouch for it; \
                 SSL_CERT_FILE names a file of others"
                    .to_owned(),
            ),
            Self::BadAuthority => Some("give the authority's certificate, `-----BEGIN CERTIFICATE-----`".to_owned()),
            Self::TooSlow { .. } | Self::Broken { .. } => {
                Some("what it was asked may still happen: look with `berth operation list`".to_owned())
            }
            Self::CutOff { .. } => Some("try again: nothing was changed".to_owned()),
            Self::Refused(problem) => problem.hint.clone(),
            Self::NotBerth { .. } => Some("look at BERTH_URL".to_owned()),
            Self::Unreadable { .. } => Some("use a program of the server's version".to_owned()),
        }
    }

    /// The problem that the server answered, where it is one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }
}
