//! Tokens of providers as `berth check --live` tries them, against servers that answer as the providers' own do.

use super::{Folder, out, rules};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

/// Answers each request with the next of these, and hands back what it was asked.
fn provider(answers: &'static [&'static str]) -> (u16, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let mut text = String::from_utf8(head).unwrap();
            let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            stream.read_exact(&mut body).unwrap();
            text.push_str(&String::from_utf8(body).unwrap());
            asked.push(text);
            stream.write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    (port, serving)
}

#[test]
fn tokens_of_providers_are_tried_and_never_told() {
    let (hetzner, asked_hetzner) =
        provider(&["HTTP/1.1 401 Unauthorized\r\n\r\n{\"error\":{\"code\":\"unauthorized\"}}"]);
    let (fly, asked_fly) = provider(&["HTTP/1.1 403 Forbidden\r\n\r\n{}"]);
    let (cloudflare, asked_cloudflare) = provider(&[
        "HTTP/1.1 200 OK\r\n\r\n{\"result\":{\"status\":\"active\",\"expires_on\":\"2020-01-01T00:00:00Z\"},\"success\":true}",
    ]);
    let folder = Folder::new();
    folder.write(".env", "HETZNER_API_TOKEN=hunter2\n");
    let base = |port: u16| format!("http://127.0.0.1:{port}");
    let (hetzner, fly, cloudflare) = (base(hetzner), base(fly), base(cloudflare) + "/client/v4/");
    let variables = [
        ("HETZNER_API_TOKEN", "another"),
        ("FLY_API_TOKEN", "FlyV1 fm2_hunter2"),
        ("CLOUDFLARE_API_TOKEN", "hunter2"),
        ("HCLOUD_ENDPOINT", hetzner.as_str()),
        ("FLY_FLAPS_BASE_URL", fly.as_str()),
        ("CLOUDFLARE_BASE_URL", cloudflare.as_str()),
    ];
    let found = folder.berth(&["check", "--live", "--json"], &variables);
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    let said: Vec<String> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["rule"].as_str().unwrap().starts_with("live-"))
        .map(|f| {
            format!(
                "{} {} {}",
                f["rule"].as_str().unwrap(),
                f["file"].as_str().unwrap(),
                f["message"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            "live-token-refused HETZNER_API_TOKEN the provider answered 401",
            "live-token-refused CLOUDFLARE_API_TOKEN it ended on 2020-01-01",
        ],
        "a missing right, as Fly has it, is no wrong token"
    );
    assert!(asked_hetzner.join().unwrap()[0].contains("GET /locations HTTP/1.0\r\n"));
    assert!(
        asked_fly.join().unwrap()[0].contains("Authorization: FlyV1 fm2_hunter2\r\n"),
        "it names its scheme itself"
    );
    let asked = asked_cloudflare.join().unwrap();
    assert!(asked[0].starts_with("GET /client/v4/user/tokens/verify HTTP/1.0\r\n"), "{asked:?}");
    assert!(asked[0].contains("Authorization: Bearer hunter2\r\n"));
    let told = format!("{}{}", out(&found), String::from_utf8_lossy(&found.stderr));
    assert!(!told.contains("hunter2"), "{told}");

    // Not to whoever a variable names, unless that is this machine.
    let variables = [("HCLOUD_TOKEN", "hunter2"), ("HCLOUD_ENDPOINT", "http://192.0.2.1")];
    let found = Folder::new().berth(&["check", "--live", "--json"], &variables);
    let talk = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(talk.contains("HCLOUD_TOKEN could not be tried: a token is not sent in the clear"), "{talk}");
}

#[test]
fn the_organisation_that_is_named_has_to_be_one_of_the_tokens() {
    let (fly, asked) = provider(&["HTTP/1.1 404 Not Found\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\n{\"apps\":[]}"]);
    let base = format!("http://127.0.0.1:{fly}");
    let folder = Folder::new();
    // That of a file goes before the environment's.
    folder.write(".env", "FLY_API_TOKEN=hunter2\nFLY_ORG_ID=acme\n");
    let variables = [("FLY_FLAPS_BASE_URL", base.as_str()), ("FLY_ORG_ID", "other")];
    let found = folder.berth(&["check", "--live", "--json"], &variables);
    assert!(rules(&found).contains("live-organisation-unknown"), "{}", out(&found));
    assert!(out(&found).contains("organisation `acme`"), "{}", out(&found));
    let found = folder.berth(&["check", "--live", "--json"], &variables);
    assert!(!rules(&found).iter().any(|rule| rule.starts_with("live-")), "{}", out(&found));
    let asked = asked.join().unwrap();
    assert!(asked.iter().all(|head| head.starts_with("GET /v1/apps?org_slug=acme HTTP/1.0\r\n")), "{asked:?}");
    folder.write(".env", "FLY_API_TOKEN=hunter2\nFLY_ORG_ID=a&b=c\n");
    let found = folder.berth(&["check", "--live", "--json"], &variables);
    let talk = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(talk.contains("characters that no slug has"), "{talk}");
}

#[test]
fn tokens_of_render_koyeb_and_railway_are_tried() {
    // Each refuses first, as its definition says it does, and then answers.
    let (render, asked_render) = provider(&[
        "HTTP/1.1 401 Unauthorized\r\n\r\n{\"id\":\"x\",\"message\":\"unauthorized\"}",
        "HTTP/1.1 200 OK\r\n\r\n[{\"cursor\":\"c\",\"owner\":{\"id\":\"tea-1\",\"name\":\"acme\"}}]",
    ]);
    let (koyeb, asked_koyeb) = provider(&[
        "HTTP/1.1 401 Unauthorized\r\n\r\n{\"status\":401,\"code\":\"unauthorized\",\"message\":\"no\"}",
        "HTTP/1.1 200 OK\r\n\r\n{\"organization\":{\"id\":\"o\",\"name\":\"acme\",\"status\":\"ACTIVE\"}}",
    ]);
    let (railway, asked_railway) = provider(&[
        "HTTP/1.1 200 OK\r\n\r\n{\"errors\":[{\"message\":\"Not Authorized\"}],\"data\":null}",
        "HTTP/1.1 200 OK\r\n\r\n{\"data\":{\"apiToken\":{\"workspaces\":[{\"id\":\"w\"}]}}}",
    ]);
    let base = |port: u16| format!("http://127.0.0.1:{port}");
    let (render, koyeb, railway) = (base(render) + "/v1/", base(koyeb), base(railway));
    let variables = [
        ("RENDER_API_KEY", "rnd_hunter2"),
        ("KOYEB_TOKEN", "hunter2"),
        ("RAILWAY_API_TOKEN", "hunter2"),
        ("RENDER_HOST", render.as_str()),
        ("KOYEB_URL", koyeb.as_str()),
        ("RAILWAY_API_URL", railway.as_str()),
    ];
    let look = || {
        let found = Folder::new().berth(&["check", "--live", "--json"], &variables);
        let told = format!("{}{}", out(&found), String::from_utf8_lossy(&found.stderr));
        assert!(!told.contains("hunter2"), "{told}");
        let report: Value = serde_json::from_slice(&found.stdout).unwrap();
        let said = |f: &Value| format!("{} {}", f["file"].as_str().unwrap(), f["message"].as_str().unwrap());
        report["findings"].as_array().unwrap().iter().map(said).collect::<Vec<_>>()
    };
    let mut refused = look();
    refused.sort();
    assert_eq!(
        refused,
        [
            "KOYEB_TOKEN the provider answered 401",
            "RAILWAY_API_TOKEN the provider calls it `Not Authorized`",
            "RENDER_API_KEY the provider answered 401",
        ]
    );
    assert_eq!(look(), Vec::<String>::new());
    let begins = |asked: Vec<String>, line: &str| assert!(asked.iter().all(|head| head.starts_with(line)), "{asked:?}");
    begins(asked_render.join().unwrap(), "GET /v1/owners?limit=1 HTTP/1.0\r\n");
    begins(asked_koyeb.join().unwrap(), "GET /v1/account/organization HTTP/1.0\r\n");
    let asked = asked_railway.join().unwrap();
    assert!(asked.iter().all(|text| text.contains("Authorization: Bearer hunter2\r\n")), "{asked:?}");
    assert!(asked.iter().all(|text| text.ends_with(r#"{"query":"query { apiToken { workspaces { id } } }"}"#)));
    begins(asked, "POST /graphql/v2 HTTP/1.0\r\n");
}
