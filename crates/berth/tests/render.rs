//! `berth render` as people use it: beside a stack file, checked for drift, never over what somebody wrote.
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use uuid::Uuid;

const STACK: &str = "
stack: desk
services:
  web:
    command: [./serve]
    migrate: [./migrate]
    health: /up
    copies: 2
    env: { PARTNER: \"${PARTNER_TOKEN}\" }
    shape: { memory_mib: 512 }
  worker: { command: [./work], role: worker }
providers:
  local: { adapter: local }
cells:
  shared-1: { class: shared, provider: local, server: { memory_mib: 4096 } }
";

struct Folder(PathBuf);

impl Folder {
    fn new(stack: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-render-{}", Uuid::new_v4().simple()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("berth.yaml"), stack).unwrap();
        fs::write(path.join("go.mod"), "module desk\n").unwrap();
        Self(path)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(arguments).env_remove("PARTNER_TOKEN").current_dir(&self.0).stdin(Stdio::null()).output().unwrap()
    }

    fn render(&self, more: &[&str]) -> Output {
        let arguments: Vec<&str> = ["render", "--host", "desk.example.com"].iter().chain(more).copied().collect();
        self.run(&arguments)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left to the system's own sweep of its temporary folder otherwise.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn edit(path: &Path, what: &str, with: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(what), "{what}");
    fs::write(path, text.replace(what, with)).unwrap();
}

#[test]
fn rendered_files_are_the_same_until_somebody_changes_them_and_pass_berth_check() {
    let folder = Folder::new(STACK);
    let missing = folder.render(&["--check"]);
    assert_eq!(missing.status.code(), Some(1), "{}", said(&missing));
    assert!(!folder.0.join("nginx.conf").exists(), "a check writes nothing");
    let first = folder.render(&[]);
    assert!(first.status.success(), "{}", said(&first));
    for again in [folder.render(&["--check"]), folder.render(&[])] {
        assert!(again.status.success() && !said(&again).contains("written"), "{}", said(&again));
    }
    let compose = folder.0.join("docker-compose.yml");
    assert!(fs::read_to_string(folder.0.join("Dockerfile")).unwrap().contains("FROM golang"), "go.mod lies there");
    let checked = folder.run(&["check", "docker-compose.yml", "nginx.conf", "berth.yaml"]);
    assert!(checked.status.success(), "{}", said(&checked));

    edit(&compose, "127.0.0.1:15432", "0.0.0.0:15432");
    let drifted = folder.render(&["--check", "--json"]);
    assert_eq!(drifted.status.code(), Some(1));
    let shown: serde_json::Value = serde_json::from_slice(&drifted.stdout).unwrap();
    let differing: Vec<&str> = shown
        .as_array()
        .unwrap()
        .iter()
        .filter(|file| file["state"] == "differs")
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert_eq!(differing, ["./docker-compose.yml"]);
    assert!(folder.render(&[]).status.success());
    assert!(folder.render(&["--check"]).status.success(), "rendered again, it is as it was");
}

#[test]
fn what_people_wrote_and_what_does_not_fit_stays_as_it_is() {
    let folder = Folder::new(STACK);
    fs::write(folder.0.join("nginx.conf"), "# mine\n").unwrap();
    let refused = folder.render(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("nginx.conf` was not rendered"), "{}", said(&refused));
    assert!(!folder.0.join("Dockerfile").exists(), "nothing was written");
    let small = folder.render(&["--server-mib", "2048", "-o", "elsewhere"]);
    assert!(said(&small).contains("promises 2560 MiB") && small.status.code() == Some(1), "{}", said(&small));
    fs::write(folder.0.join("package.json"), "{}").unwrap();
    let which = folder.render(&["--check"]);
    assert!(said(&which).contains("both `go.mod` and `package.json`"), "{}", said(&which));
    let tagged = Folder::new(&STACK.replace("command: [./work]", "image: desk:latest"));
    let refused = tagged.render(&[]);
    assert!(said(&refused).contains("by a tag"), "{}", said(&refused));
}

#[test]
fn a_stack_with_keys_and_objects_is_rendered_with_a_place_for_each() {
    let data = "data:
  root: public.customers
  redis: { prefixes: ['t:{tenant}:'], store: true }
  objects: { prefixes: ['files/{tenant}/'] }
";
    let folder = Folder::new(&format!("{STACK}{data}"));
    let rendered = folder.render(&[]);
    assert!(rendered.status.success(), "{}", said(&rendered));
    let compose = fs::read_to_string(folder.0.join("docker-compose.yml")).unwrap();
    for word in ["REDIS_URL: ", "appendonly yes", "OBJECTS_URL: ", "BERTH_CELL: "] {
        assert!(compose.contains(word), "{word} is not in\n{compose}");
    }
}
