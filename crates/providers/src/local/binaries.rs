//! Finds the machine's own Postgres programs. Never downloads or installs one.

use berth_infra::ProviderError;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where distributions put one folder per major version, and what its name ends in.
const VERSIONED: &[(&str, &str)] =
    &[("/usr/lib/postgresql", "bin"), ("/usr/lib64/pgsql", "bin"), ("/opt/postgresql", "bin")];
const PLAIN: &[&str] = &["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"];

/// The folder of the newest `postgres` and `initdb` here.
pub fn newest() -> Result<PathBuf, ProviderError> {
    newest_of(VERSIONED, PLAIN)
}

fn newest_of(versioned: &[(&str, &str)], plain: &[&str]) -> Result<PathBuf, ProviderError> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, bin) in versioned {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let major = entry.file_name().to_str().and_then(|name| name.parse().ok());
            found.extend(major.map(|major| (major, entry.path().join(bin))));
        }
    }
    found.sort_unstable();
    let newest_first = found.into_iter().rev().map(|(_, dir)| dir);
    newest_first.chain(plain.iter().map(PathBuf::from)).find(|dir| complete(dir)).ok_or_else(|| missing(None))
}

/// Whether a folder holds what a cluster needs.
pub(super) fn complete(dir: &Path) -> bool {
    ["postgres", "initdb"].iter().all(|program| dir.join(program).is_file())
}

/// What to say when there is none, or none of the major version that made the data.
pub(super) fn missing(major: Option<&str>) -> ProviderError {
    let package = major.map_or_else(|| "postgresql-15".to_owned(), |major| format!("postgresql-{major}"));
    ProviderError::NotInstalled {
        program: "postgres".to_owned(),
        remedy: format!(
            "on Debian or Ubuntu: `apt-get install --no-install-recommends {package}`; elsewhere install PostgreSQL {} \
             or newer from the distribution",
            major.unwrap_or("15")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::newest_of;
    use berth_infra::ErrorKind;
    use std::fs;

    #[test]
    fn the_newest_complete_version_is_taken_by_number_not_by_text() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().to_str().unwrap();
        for (version, programs) in
            [("9", &["postgres", "initdb"][..]), ("15", &["postgres", "initdb"]), ("17", &["postgres"])]
        {
            let bin = dir.path().join(version).join("bin");
            fs::create_dir_all(&bin).unwrap();
            for program in programs {
                fs::write(bin.join(program), "").unwrap();
            }
        }
        assert_eq!(newest_of(&[(parent, "bin")], &[]).unwrap(), dir.path().join("15/bin"));
    }

    #[test]
    fn without_postgres_the_hint_names_the_package() {
        let error = newest_of(&[("/nonexistent", "bin")], &["/nonexistent"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Ours);
        assert!(error.hint().unwrap().contains("apt-get install --no-install-recommends postgresql-15"));
    }
}
