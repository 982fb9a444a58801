//! What a service of a release runs: an image or a program of the host, and the digest that says which one exactly.
//! Never a tag: what it names today it may not name tomorrow, and then no release could be rolled back.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// SHA-256, as 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    /// `None`: not 64 of `0-9` and `a-f`.
    pub fn new(hex: impl Into<String>) -> Option<Self> {
        let hex = hex.into();
        let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (hex.len() == 64 && hex.bytes().all(digits)).then_some(Self(hex))
    }
    pub fn of_bytes(bytes: [u8; 32]) -> Self {
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Self(digits.map(|digit| char::from_digit(u32::from(digit), 16).expect("four bits are one digit")).collect())
    }
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// Text that names no artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadArtifact {
    #[error("`{0}` has no digest; a tag can be moved, so that nobody knows what would run")]
    NoDigest(String),
    #[error("`{0}` has a digest that is not `sha256:` and 64 of `0-9` and `a-f`")]
    Digest(String),
    #[error("`{0}` names a tag beside the digest; the digest alone says what runs")]
    Tagged(String),
    #[error("`{0}` is neither an image with its registry nor the absolute path of a program")]
    Name(String),
}

impl BadArtifact {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoDigest(_) | Self::Digest(_) => {
                "`docker buildx imagetools inspect IMAGE:TAG` and `skopeo inspect docker://IMAGE:TAG` print an image's \
                 digest, `sha256sum FILE` a program's; the form is NAME@sha256:…"
            }
            Self::Tagged(_) => "leave the tag out: `registry.example.com/shop/web@sha256:…`",
            Self::Name(_) => "for example `registry.example.com/shop/web@sha256:…` or `/opt/shop/web@sha256:…`",
        }
    }
}

/// Written `NAME@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Artifact {
    /// A container image, by its registry's host and path.
    Image { name: String, digest: Digest },
    /// A program that lies on the cell's host under this path, and has this digest there.
    Program { path: String, digest: Digest },
}

impl Artifact {
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Image { digest, .. } | Self::Program { digest, .. } => digest,
        }
    }

    /// The registry's host, with its port.
    pub fn registry(&self) -> Option<&str> {
        match self {
            Self::Image { name, .. } => name.split_once('/').map(|(host, _)| host),
            Self::Program { .. } => None,
        }
    }
}

impl FromStr for Artifact {
    type Err = BadArtifact;

    fn from_str(text: &str) -> Result<Self, BadArtifact> {
        let given = || text.to_owned();
        let (name, digest) = text.split_once('@').ok_or_else(|| BadArtifact::NoDigest(given()))?;
        let digest = digest.strip_prefix("sha256:").and_then(Digest::new);
        let digest = digest.ok_or_else(|| BadArtifact::Digest(given()))?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
        if name.starts_with('/') {
            let whole = name.len() <= 1024 && name.bytes().all(|b| plain(b) || b == b'+') && !name.ends_with('/');
            let climbs = name.split('/').any(|part| part == "..");
            if !whole || climbs {
                return Err(BadArtifact::Name(given()));
            }
            return Ok(Self::Program { path: name.to_owned(), digest });
        }
        let (host, path) = name.split_once('/').ok_or_else(|| BadArtifact::Name(given()))?;
        if path.contains(':') {
            return Err(BadArtifact::Tagged(given()));
        }
        let (bare, port) = host.split_once(':').map_or((host, None), |(bare, port)| (bare, Some(port)));
        // Without a dot or a port the first word is a folder of whichever registry a machine thinks of first.
        let named = bare.contains('.') || port.is_some() || bare == "localhost";
        let path_fits = !path.is_empty()
            && path.bytes().all(|b| plain(b) && !b.is_ascii_uppercase())
            && path.split('/').all(|part| !part.is_empty() && part != "..");
        let host_fits = !bare.is_empty()
            && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
            && port.is_none_or(|port| port.parse::<u16>().is_ok());
        if !named || !path_fits || !host_fits || name.len() > 512 {
            return Err(BadArtifact::Name(given()));
        }
        Ok(Self::Image { name: name.to_owned(), digest })
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image { name, digest } => write!(f, "{name}@{digest}"),
            Self::Program { path, digest } => write!(f, "{path}@{digest}"),
        }
    }
}

impl TryFrom<String> for Artifact {
    type Error = BadArtifact;
    fn try_from(text: String) -> Result<Self, BadArtifact> {
        text.parse()
    }
}

impl From<Artifact> for String {
    fn from(artifact: Artifact) -> Self {
        artifact.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{Artifact, BadArtifact, Digest};

    #[test]
    fn only_a_digest_names_what_runs() {
        let digest = "a1".repeat(32);
        let parsed = |name: &str| format!("{name}@sha256:{digest}").parse::<Artifact>();
        for good in ["ghcr.io/shop/web", "localhost/web", "127.0.0.1:5000/web", "r.example:443/a/b-c_d.e"] {
            let artifact = parsed(good).unwrap();
            assert_eq!(artifact.to_string(), format!("{good}@sha256:{digest}"));
            assert_eq!(artifact.registry(), good.split('/').next());
        }
        assert!(matches!(parsed("/opt/web-1.2/web"), Ok(Artifact::Program { path, .. }) if path == "/opt/web-1.2/web"));
        for bad in
            ["web", "shop/web", "/opt/../web", "ghcr.io/", "ghcr.io/Shop", "/opt/we b", "-/web", "a.b:x/web", "/opt/"]
        {
            assert!(matches!(parsed(bad), Err(BadArtifact::Name(_))), "{bad}: {:?}", parsed(bad));
        }
        assert!(matches!(parsed("ghcr.io/web:1.2"), Err(BadArtifact::Tagged(_))));
        assert!(matches!("ghcr.io/web:latest".parse::<Artifact>(), Err(BadArtifact::NoDigest(_))));
        assert!(matches!("ghcr.io/web@sha256:A1".parse::<Artifact>(), Err(BadArtifact::Digest(_))));
    }

    #[test]
    fn a_digest_of_bytes_is_its_hexadecimal_form() {
        assert_eq!(Digest::of_bytes([0xa1; 32]).hex(), "a1".repeat(32));
        assert_eq!(Digest::new("a1".repeat(32)), Some(Digest::of_bytes([0xa1; 32])));
        assert_eq!(Digest::new("A1".repeat(32)), None);
    }
}
