//! Control groups for members, version 1 and 2. Never fails a start: where the kernel does not let us, nothing is
//! bounded here and the caller falls back to rlimits.
//!
//! Memory is a hard bound. Cpu is a weight: a shape is what a member is promised when others want the same core,
//! not a ceiling over cores that stand idle.

use berth_infra::Shape;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the groups of one installation lie; empty where none can be made.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    version: Version,
}

#[derive(Clone, Debug)]
enum Version {
    None,
    /// One tree per controller.
    One {
        memory: PathBuf,
        cpu: PathBuf,
    },
    Two {
        group: PathBuf,
    },
}

const MOUNT: &str = "/sys/fs/cgroup";

impl Groups {
    pub fn of(id: &str) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self { version: Self::find(Path::new(MOUNT), &own, &format!("berth-{id}")).unwrap_or(Version::None) }
    }

    fn find(mount: &Path, own: &str, name: &str) -> Option<Version> {
        let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        if has(&controllers, "memory") && has(&controllers, "cpu") {
            // Beside our own group, not below it: version 2 keeps processes out of groups that have children.
            return Some(Version::Two { group: mount.join(name) });
        }
        // Below our own groups, so that whoever bounds us bounds our members too.
        let below = |controller: &str| {
            let line = own
                .lines()
                .find(|line| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == controller)))?;
            let folder = mount.join(controller).join(line.splitn(3, ':').nth(2)?.trim_start_matches('/'));
            folder.is_dir().then(|| folder.join(name))
        };
        Some(Version::One { memory: below("memory")?, cpu: below("cpu")? })
    }

    /// Puts a process into a group of its own under these bounds. `false`: it is where it was, unbounded.
    pub fn enter(&self, name: &str, shape: Shape, pid: u32) -> bool {
        let memory_bytes = u64::from(shape.memory_mb) * 1024 * 1024;
        let put = |group: PathBuf, bounds: &[(&str, String)]| -> bool {
            let inside = || -> std::io::Result<()> {
                fs::create_dir_all(&group)?;
                for (file, value) in bounds {
                    fs::write(group.join(file), value)?;
                }
                fs::write(group.join("cgroup.procs"), pid.to_string())
            };
            inside().is_ok()
        };
        match &self.version {
            Version::None => false,
            Version::One { memory, cpu } => {
                let shares = (u64::from(shape.cpu_millis) * 1024 / 1000).max(2);
                // A kernel without the weight still bounds memory, which is what one member can take from all.
                put(cpu.join(name), &[("cpu.shares", shares.to_string())]);
                put(memory.join(name), &[("memory.limit_in_bytes", memory_bytes.to_string())])
            }
            Version::Two { group } => {
                let weight = (u64::from(shape.cpu_millis) / 10).clamp(1, 10_000);
                let opened = fs::create_dir_all(group)
                    .and_then(|()| fs::write(group.join("cgroup.subtree_control"), "+cpu +memory"));
                opened.is_ok()
                    && put(
                        group.join(name),
                        &[("memory.max", memory_bytes.to_string()), ("cpu.weight", weight.to_string())],
                    )
            }
        }
    }

    /// Forgets the group of a member that ended. The kernel refuses while something runs in it.
    pub fn leave(&self, name: &str) {
        for group in self.groups() {
            let _ = fs::remove_dir(group.join(name));
        }
    }

    /// Forgets all of them.
    pub fn remove(&self) {
        for group in self.groups() {
            for entry in fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            let _ = fs::remove_dir(&group);
        }
    }

    fn groups(&self) -> Vec<PathBuf> {
        match &self.version {
            Version::None => Vec::new(),
            Version::One { memory, cpu } => vec![memory.clone(), cpu.clone()],
            Version::Two { group } => vec![group.clone()],
        }
    }
}

fn has(controllers: &str, name: &str) -> bool {
    controllers.split_whitespace().any(|controller| controller == name)
}

#[cfg(test)]
mod tests {
    use super::{Groups, Version};

    #[test]
    fn groups_nest_below_our_own_in_version_1() {
        let mount = tempfile::tempdir().unwrap();
        for folder in ["memory/outer", "cpu"] {
            std::fs::create_dir_all(mount.path().join(folder)).unwrap();
        }
        let own = "9:name=systemd:/\n4:memory:/outer\n1:cpu,cpuacct:/\n0::/\n";
        let found = Groups::find(mount.path(), own, "berth-x").unwrap();
        let Version::One { memory, cpu } = found else { panic!("{found:?}") };
        assert_eq!(memory, mount.path().join("memory/outer/berth-x"));
        assert_eq!(cpu, mount.path().join("cpu/berth-x"));
    }

    #[test]
    fn a_tree_without_the_two_controllers_is_not_used() {
        let mount = tempfile::tempdir().unwrap();
        std::fs::write(mount.path().join("cgroup.controllers"), "hugetlb").unwrap();
        assert!(Groups::find(mount.path(), "0::/\n", "berth-x").is_none());
        std::fs::write(mount.path().join("cgroup.controllers"), "cpuset cpu memory pids").unwrap();
        assert!(matches!(Groups::find(mount.path(), "0::/\n", "berth-x"), Some(Version::Two { .. })));
    }
}
