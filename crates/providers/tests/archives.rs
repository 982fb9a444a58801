//! Archives in a folder and in a bucket, behind the same calls. The bucket is moto's, an S3 server that nobody here wrote.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "s3")]

use berth_providers::archives::{Bucket, bucket, folder};
use futures_util::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, buffered::BufWriter, path::Path as At};
use secrecy::SecretString;
use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::io::AsyncWriteExt as _;

/// Written, listed, read and removed; a large one goes in parts.
async fn holds_archives(store: Arc<dyn ObjectStore>) {
    let at = At::from("tenants/a/b/public.rows.csv.zst");
    let large: Vec<u8> = (0..12_u32 << 20).map(|n| (n % 251) as u8).collect();
    let mut writer = BufWriter::new(Arc::clone(&store), at.clone());
    writer.write_all(&large).await.unwrap();
    writer.shutdown().await.unwrap();
    store.put(&At::from("tenants/a/b/manifest.json"), "{}".into()).await.unwrap();
    let read = store.get(&at).await.unwrap().bytes().await.unwrap();
    assert!(read == large, "{} of {} bytes", read.len(), large.len());
    let found = store.list_with_delimiter(Some(&At::from("tenants/a"))).await.unwrap();
    assert_eq!(found.common_prefixes, [At::from("tenants/a/b")]);
    let all: Vec<_> = store.list(Some(&At::from("tenants"))).try_collect().await.unwrap();
    assert_eq!(all.len(), 2);
    let missing = store.get(&At::from("tenants/a/c/manifest.json")).await.unwrap_err();
    assert!(matches!(missing, object_store::Error::NotFound { .. }), "{missing}");
    store.delete(&at).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_holds_archives_that_nobody_else_may_read() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("new/archives");
    holds_archives(folder(&path).unwrap()).await;
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = folder(&file).unwrap_err();
    assert!(refused.to_string().contains("the place of archives was refused"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_holds_archives() {
    let Some(server) = Moto::start() else {
        println!("skipped: moto could not be installed, there is no S3 server here");
        return;
    };
    let secret = |text: &str| SecretString::from(text.to_owned());
    let endpoint = server.endpoint.clone();
    let named = |name: &'static str| {
        bucket(&Bucket {
            name,
            endpoint: Some(&endpoint),
            region: Some("eu-central-1"),
            prefix: Some("berth"),
            access_key_id: secret("key"),
            secret_access_key: secret("secret"),
        })
        .unwrap()
    };
    server.make_bucket("archives");
    holds_archives(named("archives")).await;
    let missing = named("nowhere").put(&At::from("x"), "y".into()).await.unwrap_err();
    assert!(!format!("{missing:?}").contains("secret"), "{missing:?}");
}

/// The server, ended with the test.
struct Moto {
    process: Child,
    endpoint: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Moto {
    /// None where it cannot be installed.
    fn start() -> Option<Self> {
        let program = installed()?;
        // Port 0: the server says which one it got.
        let mut process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut endpoint = None;
        for line in lines.map_while(Result::ok) {
            if let Some((_, url)) = line.split_once("Running on ") {
                endpoint = Some(url.trim().to_owned());
                break;
            }
        }
        Some(Self { process, endpoint: endpoint.expect("the server says where it listens") })
    }

    fn make_bucket(&self, name: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        let url = format!("{}/{name}", self.endpoint);
        let configuration = "<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint></CreateBucketConfiguration>";
        let script = "import sys, urllib.request as u\nu.urlopen(u.Request(sys.argv[1], data=sys.argv[2].encode(), method='PUT'))";
        while !Command::new("python3")
            .args(["-c", script, &url, configuration])
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
        {
            assert!(Instant::now() < until, "the server makes no bucket");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Into the target folder, once.
fn installed() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("moto");
    let program = target.join("bin/moto_server");
    if !program.exists() {
        let quiet = |command: &mut Command| command.stdout(Stdio::null()).status().is_ok_and(|status| status.success());
        let made = quiet(Command::new("python3").args(["-m", "venv"]).arg(&target))
            && quiet(Command::new(target.join("bin/pip")).args(["install", "--quiet", "moto[server,s3]==5.2.5"]));
        if !made {
            return None;
        }
    }
    program.exists().then_some(program)
}
