//! The settings on disk: one file, written whole, so that an edge that starts without a control plane sends as it did.
//!
//! Readable by this user alone, for the key that signs cookies is in it. Never holds a route.

use berth_wire::edge::EdgeSettings;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

const FILE: &str = "settings.json";

/// What was in force last. A file that is not there or not whole is as good as none: control says it all again.
pub fn load(dir: &Path) -> EdgeSettings {
    let read = fs::read(dir.join(FILE)).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    read.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(%error, "the settings on disk could not be read; the usual ones are in force");
        }
        EdgeSettings::default()
    })
}

/// Returns when the disk has them. A crash leaves the old ones or the new ones.
pub fn save(dir: &Path, settings: &EdgeSettings) -> io::Result<()> {
    let draft = dir.join("settings.json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(settings)?)?;
    file.sync_all()?;
    fs::rename(&draft, dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::{load, save};
    use berth_wire::edge::{EdgeSettings, Hidden};
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn settings_come_back_from_disk_and_nobody_else_can_read_them() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), EdgeSettings::default());
        let settings = EdgeSettings { cookie_key: Hidden::new("secret".into()), ..EdgeSettings::default() };
        save(dir.path(), &settings).unwrap();
        assert_eq!(load(dir.path()), settings);
        let mode = fs::metadata(dir.path().join("settings.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{settings:?}").contains("secret"));
        fs::write(dir.path().join("settings.json"), "{\"services\"").unwrap();
        assert_eq!(load(dir.path()), EdgeSettings::default());
    }
}
