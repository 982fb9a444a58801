//! Settings and certificates on disk: a file each, written whole, so that an edge that starts without a control plane
//! serves as it did.
//!
//! Readable by this user alone, for there are keys in them. Never holds a route.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

pub const SETTINGS: &str = "settings.json";
pub const CERTIFICATES: &str = "certificates.json";

/// What was in force last. A file that is not there or not whole is as good as none: control says it all again.
pub fn load<T: DeserializeOwned + Default>(dir: &Path, file: &str) -> T {
    let read = fs::read(dir.join(file)).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    read.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(%error, "{file} could not be read; without the control plane it is as if there were none");
        }
        T::default()
    })
}

/// Returns when the disk has it. A crash leaves the old one or the new one.
pub fn save(dir: &Path, file: &str, value: &impl Serialize) -> io::Result<()> {
    let draft = dir.join(format!("{file}.new"));
    // One that was left here may be readable by others, or lead elsewhere.
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    out.write_all(&serde_json::to_vec(value)?)?;
    out.sync_all()?;
    fs::rename(&draft, dir.join(file))?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{SETTINGS, load, save};
    use berth_wire::edge::{EdgeSettings, Hidden};
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn settings_come_back_from_disk_and_nobody_else_can_read_them() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load::<EdgeSettings>(dir.path(), SETTINGS), EdgeSettings::default());
        let settings = EdgeSettings { cookie_key: Hidden::new("secret".into()), ..EdgeSettings::default() };
        save(dir.path(), SETTINGS, &settings).unwrap();
        assert_eq!(load::<EdgeSettings>(dir.path(), SETTINGS), settings);
        let mode = fs::metadata(dir.path().join(SETTINGS)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{settings:?}").contains("secret"));
        fs::write(dir.path().join(SETTINGS), "{\"services\"").unwrap();
        assert_eq!(load::<EdgeSettings>(dir.path(), SETTINGS), EdgeSettings::default());
    }
}
