//! Secrets in the control database are sealed: a dump of it must not be the keys to everything.
//!
//! XChaCha20-Poly1305 under a key file that lies beside the program and never in the database. Where a value
//! belongs (table, column, row) is authenticated with it, so that a sealed value copied into another row does
//! not open. Never logs, prints or compares what it opens.

use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce, aead::Aead, aead::Payload};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;
use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use uuid::Uuid;

const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
/// Stored beside every sealed value, so that a later version can tell which key it needs.
pub(crate) const KEY_VERSION: i32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the key file `{path}` cannot be used")]
    File { path: PathBuf, source: io::Error },
    #[error("the key file `{path}` can be read by others: its mode is {mode:o}, not 600")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the key file `{path}` holds no key: {KEY_BYTES} bytes in hexadecimal are expected")]
    NotAKey { path: PathBuf },
    #[error("a secret was sealed under key version {0}, which this program does not have")]
    OtherKey(i32),
    #[error("a sealed secret does not open: another key sealed it, or it was changed")]
    DoesNotOpen,
}

/// Seals and opens under one key.
pub struct Sealer {
    key: SecretSlice<u8>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

/// A secret as it is stored.
pub(crate) struct Sealed {
    pub bytes: Vec<u8>,
    pub key_version: i32,
}

impl Sealer {
    /// Reads the key file, or makes it at the first start. Losing this file loses every sealed secret.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let failed = |source| SealError::File { path: path.to_owned(), source };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path).map_err(failed)?,
            Err(error) => return Err(failed(error)),
        };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealError::Exposed { path: path.to_owned(), mode });
        }
        let key = from_hex(text.trim()).ok_or_else(|| SealError::NotAKey { path: path.to_owned() })?;
        Ok(Self { key: key.to_vec().into() })
    }

    /// A key that nobody keeps: for tests, and for worlds that end with their process.
    pub fn ephemeral() -> Self {
        Self { key: random::<KEY_BYTES>().to_vec().into() }
    }

    fn make(path: &Path) -> io::Result<String> {
        let text = hex(&random::<KEY_BYTES>());
        // Written under another name and linked: of two first starts one wins whole, and both read the winner's.
        let draft = path.with_extension(format!("{}.new", Uuid::new_v4()));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        match linked {
            Ok(()) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::read_to_string(path),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn seal(&self, place: &str, row: Uuid, secret: &SecretString) -> Sealed {
        let nonce = random::<NONCE_BYTES>();
        let aad = format!("{place}:{row}");
        let payload = Payload { msg: secret.expose_secret().as_bytes(), aad: aad.as_bytes() };
        let sealed = self
            .cipher()
            .encrypt(XNonce::from_slice(&nonce), payload)
            .expect("encryption fails only beyond 256 GiB of text");
        Sealed { bytes: [nonce.as_slice(), &sealed].concat(), key_version: KEY_VERSION }
    }

    pub(crate) fn open(&self, place: &str, row: Uuid, sealed: &Sealed) -> Result<SecretString, SealError> {
        if sealed.key_version != KEY_VERSION {
            return Err(SealError::OtherKey(sealed.key_version));
        }
        let (nonce, text) = sealed.bytes.split_at_checked(NONCE_BYTES).ok_or(SealError::DoesNotOpen)?;
        let aad = format!("{place}:{row}");
        let opened = self
            .cipher()
            .decrypt(XNonce::from_slice(nonce), Payload { msg: text, aad: aad.as_bytes() })
            .map_err(|_| SealError::DoesNotOpen)?;
        String::from_utf8(opened).map(SecretString::from).map_err(|_| SealError::DoesNotOpen)
    }

    /// A key for another purpose, the same on every server that has this key file. It says nothing about the key.
    pub(crate) fn derived(&self, purpose: &str) -> SecretString {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(self.key.expose_secret()).expect("any length is a key");
        mac.update(purpose.as_bytes());
        hex(&mac.finalize().into_bytes()).into()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(Key::from_slice(self.key.expose_secret()))
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{SealError, Sealer};
    use secrecy::{ExposeSecret, SecretString};
    use std::os::unix::fs::PermissionsExt;
    use uuid::Uuid;

    #[test]
    fn a_sealed_secret_opens_only_where_it_belongs() {
        let sealer = Sealer::ephemeral();
        let (row, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut sealed = sealer.seal("cells.access", row, &SecretString::from("pass word"));
        assert!(!sealed.bytes.windows(4).any(|w| w == b"pass"), "the text shows through");
        assert_eq!(sealer.open("cells.access", row, &sealed).unwrap().expose_secret(), "pass word");
        for (place, row) in [("cells.access", other), ("cells.other", row)] {
            assert!(matches!(sealer.open(place, row, &sealed), Err(SealError::DoesNotOpen)));
        }
        assert!(matches!(Sealer::ephemeral().open("cells.access", row, &sealed), Err(SealError::DoesNotOpen)));
        *sealed.bytes.last_mut().unwrap() ^= 1;
        assert!(matches!(sealer.open("cells.access", row, &sealed), Err(SealError::DoesNotOpen)));
        sealed.bytes.truncate(3);
        assert!(matches!(sealer.open("cells.access", row, &sealed), Err(SealError::DoesNotOpen)));
    }

    #[test]
    fn the_key_file_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        let sealed = Sealer::from_file(&path).unwrap().seal("t.c", Uuid::nil(), &SecretString::from("x"));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(Sealer::from_file(&path).unwrap().open("t.c", Uuid::nil(), &sealed).unwrap().expose_secret(), "x");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a draft was left behind");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Sealer::from_file(&path), Err(SealError::Exposed { .. })));
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused_and_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        std::fs::write(&path, "not a key").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Sealer::from_file(&path), Err(SealError::NotAKey { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a key");
    }
}
