//! A registry that asks for a password, on the loopback of a test's server, with the fleet application in it as images.
//! Nothing is fetched: an image is a root of the programs that this machine has.

use super::{Machine, must, run, text};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// As images name it, on every server: each has one of its own.
pub const HOST: &str = "127.0.0.1:5000";
pub const USER: &str = "puller";
pub const PASSWORD: &str = "planted-registry-password";
/// The version whose program migrates nothing and is never well. It takes the program's place, so it is made last.
pub const SICK: &str = "sick";

/// What a registry keeps, made on this machine.
pub struct Images {
    dir: PathBuf,
    /// Of the fleet application, one after the other: `web@sha256:…` without the registry.
    pub digests: Vec<String>,
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Images {
    /// As many as there are versions, which stand in each one's `/version`. `None`, with a word, where none can be made.
    pub fn make(dir: &Path, fleet: &Path, versions: &[&str]) -> Option<Self> {
        for program in ["docker-registry", "htpasswd"] {
            if !text(&run("sh", &["-c", &format!("command -v {program}")]).stdout).contains(program) {
                eprintln!("skipped: `{program}` is not installed (Debian: docker-registry, apache2-utils)");
                return None;
            }
        }
        let dir = dir.join("registry");
        let root = dir.join("root");
        fs::create_dir_all(&root).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let _serving = serve(&dir, port);
        let at = root.to_str().unwrap();
        fill(&root, fleet);
        let mut digests = Vec::new();
        for version in versions {
            fs::write(root.join("version"), version).unwrap();
            if *version == SICK {
                let script = "#!/bin/sh\n[ \"$1\" = migrate ] && exit 0\ntrap exit TERM\nsleep 1000 &\nwait\n";
                fs::write(root.join("usr/local/bin/fleet"), script).unwrap();
            }
            let (tar, told) = (dir.join("root.tar"), dir.join("digest"));
            let (tar, told) = (tar.to_str().unwrap(), told.to_str().unwrap());
            must("tar", &["-C", at, "-cf", tar, "."]);
            let name = format!("127.0.0.1:{port}/shop/web:{version}");
            must("podman", &["import", "--quiet", tar, &name]);
            must("podman", &["push", "--quiet", "--tls-verify=false", "--digestfile", told, &name]);
            must("podman", &["rmi", "--force", &name]);
            digests.push(fs::read_to_string(told).unwrap().trim().to_owned());
            fs::remove_file(tar).unwrap();
        }
        fs::remove_dir_all(&root).unwrap();
        Some(Self { dir, digests })
    }

    /// The nth one, as a release names it.
    pub fn artifact(&self, nth: usize) -> String {
        format!("{HOST}/shop/web@{}", self.digests[nth])
    }

    /// The same registry on a server, which from here on asks for [`PASSWORD`].
    pub fn bring(&self, server: &Machine) {
        let users = self.dir.join("users");
        must("htpasswd", &["-Bbc", users.to_str().unwrap(), USER, PASSWORD]);
        let from = text(&run("sh", &["-c", "command -v docker-registry"]).stdout);
        server.copy(Path::new(from.trim()), "/usr/bin/docker-registry");
        // In a container systemd's scopes hold no process, and without them all containers were one group to it, which the end of
        // any of them ended.
        server.sh("mkdir -p /srv/registry /etc/containers/containers.conf.d; \
             printf '[engine]\\ncgroup_manager = \"cgroupfs\"\\n' >/etc/containers/containers.conf.d/groups.conf");
        server.copy(&self.dir.join("store"), "/srv/registry/store");
        server.copy(&users, "/srv/registry/users");
        let config = format!(
            "{}auth: {{ htpasswd: {{ realm: test, path: /srv/registry/users }} }}\n",
            config(Path::new("/srv/registry"), 5000)
        );
        server.sh(&format!("cat >/srv/registry/config.yml <<'END'\n{config}END"));
        // A unit, so that it comes back with the server.
        server.sh(
            "printf '[Service]\\nExecStart=/usr/bin/docker-registry serve /srv/registry/config.yml\\n\
             [Install]\\nWantedBy=multi-user.target\\n' >/etc/systemd/system/registry.service; \
             systemctl daemon-reload; systemctl enable --now --quiet registry; \
             for n in $(seq 100); do curl -s -o /dev/null http://127.0.0.1:5000/v2/ && exit 0; sleep 0.1; done; exit 1",
        );
    }
}

/// A root for containers with the application in it, and what it needs of this machine.
pub fn fill(root: &Path, fleet: &Path) {
    // `fleet` lies where the stack file's command finds it.
    let script = "set -e; cd /; for p in $(command -v bash) /bin/sh $(command -v id) $(command -v sleep) \"$1\"; do \
                  { ldd $p | grep -o '/[^ ]*'; echo $p; }; done | sort -u | xargs cp --parents -L -t \"$0\"; \
                  mkdir -p \"$0/usr/local/bin\" \"$0/tmp\" \"$0/etc\"; cp \"$1\" \"$0/usr/local/bin/fleet\"; \
                  rm -f \"$0$1\"";
    must("sh", &["-c", script, root.to_str().unwrap(), fleet.to_str().unwrap()]);
}

fn config(dir: &Path, port: u16) -> String {
    format!(
        "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {}/store }} }}\nhttp: {{ addr: 127.0.0.1:{port} }}\n",
        dir.display()
    )
}

fn serve(dir: &Path, port: u16) -> Serving {
    let file = dir.join("config.yml");
    fs::write(&file, config(dir, port)).unwrap();
    let child = Command::new("docker-registry")
        .args(["serve", file.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let serving = Serving(child);
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "the registry does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    serving
}
