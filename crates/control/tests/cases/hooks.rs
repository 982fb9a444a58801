//! HTTP hooks against an application that answers what the test says, and SQL hooks against a lock.

use super::world::{STACK, World, change, wanted};
use berth_control::tenants;
use berth_domain::OperationState;
use berth_infra::Role;
use berth_workflow::Journal as _;
use serde_json::Value;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// What one request said.
#[derive(Clone, Debug)]
struct Heard {
    hook: String,
    key: String,
    body: Value,
}

#[derive(Clone)]
struct Application {
    url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    answers: Arc<Mutex<VecDeque<&'static str>>>,
}

impl Application {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/internal/tenants", listener.local_addr().unwrap());
        let it = Self { url, heard: Arc::default(), answers: Arc::default() };
        let serving = it.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut all = Vec::new();
                let (head, body) = loop {
                    stream.read_buf(&mut all).await.unwrap();
                    let text = String::from_utf8(all.clone()).unwrap();
                    if let Some((head, body)) = text.split_once("\r\n\r\n")
                        && body.ends_with('}')
                    {
                        break (head.to_owned(), body.to_owned());
                    }
                };
                assert!(head.starts_with("POST /internal/tenants HTTP/1."), "{head}");
                let header = |name: &str| {
                    head.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
                };
                let (hook, key) = (header("Berth-Hook:"), header("Idempotency-Key:"));
                serving.heard.lock().unwrap().push(Heard { hook, key, body: serde_json::from_str(&body).unwrap() });
                let answer = serving.answers.lock().unwrap().pop_front().unwrap_or("204 No Content\r\n\r\n");
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            }
        });
        it
    }

    fn will_answer(&self, answers: &[&'static str]) {
        self.answers.lock().unwrap().extend(answers);
    }

    fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

async fn world(application: &Application) -> World {
    let world = World::bare().await;
    let begin = STACK.find("  hooks:").unwrap();
    let end = STACK.find("plans:").unwrap();
    let hooks = ["create", "suspend", "resume", "plan", "delete"]
        .map(|hook| format!("    {hook}: {{ url: '{}' }}\n", application.url))
        .concat();
    let file = format!("{}  hooks:\n{hooks}{}", &STACK[..begin], &STACK[end..]);
    world.apply(&file).await.unwrap();
    world.finish().await;
    world
}

#[tokio::test]
async fn an_application_that_is_asked_over_http_names_its_tenants() {
    let application = Application::start().await;
    let world = world(&application).await;
    application.will_answer(&[
        "503 Service Unavailable\r\nRetry-After: 1\r\n\r\n",
        "not http",
        "201 Created\r\nContent-Length: 9\r\n\r\n{\"id\": 7}",
    ]);
    let tenant = world.create("acme", "hobby").await;
    assert_eq!(tenant.key.as_ref().map(ToString::to_string).as_deref(), Some("7"));
    let heard = application.heard();
    assert_eq!(heard.len(), 3, "once for each try");
    for one in &heard {
        assert_eq!((one.hook.as_str(), &one.key), ("create", &heard[0].key), "a try is known by its key");
        assert_eq!(
            (&one.body["event"], &one.body["slug"], &one.body["plan"]),
            (&"create".into(), &"acme".into(), &"hobby".into())
        );
        assert_eq!(one.body["cell"], "shared-1");
    }

    let mut keys = Vec::new();
    for suspend in [true, false, true] {
        let begun = if suspend {
            tenants::suspend(&world.app, &change(), "acme").await
        } else {
            tenants::resume(&world.app, &change(), "acme").await
        };
        assert_eq!(world.carry_out(begun.unwrap().id).await, OperationState::Succeeded);
        let heard = application.heard();
        assert_eq!((heard.len(), &heard[0].body["id"]), (1, &"7".into()), "by the key that it gave");
        keys.push(heard[0].key.clone());
    }
    assert_ne!(keys[0], keys[2], "a second call is no try of the first");

    // What is gone already is deleted.
    application.will_answer(&["404 Not Found\r\n\r\n"]);
    let begun = tenants::delete(&world.app, &change(), "acme").await.unwrap();
    assert_eq!(world.carry_out(begun.id).await, OperationState::Succeeded);
    assert_eq!(application.heard()[0].hook, "delete");
}

#[tokio::test]
async fn an_answer_that_is_none_ends_the_creation_and_leaves_nothing() {
    let application = Application::start().await;
    let world = world(&application).await;
    for (answer, word) in [
        ("200 OK\r\n\r\n<html>welcome</html>", "not JSON"),
        ("422 Unprocessable\r\n\r\n{\"why\": \"that name is taken\"}", "that name is taken"),
        ("302 Found\r\nLocation: /login\r\n\r\n", "302"),
    ] {
        application.will_answer(&[answer]);
        let begun = tenants::create(&world.app, &change(), wanted("acme", "hobby")).await.unwrap();
        assert_eq!(world.carry_out(begun.id).await, OperationState::Failed);
        let shown = world.store.show(begun.id).await.unwrap().unwrap();
        let error = format!("{:?}", shown.0.error);
        assert!(error.contains(word) && error.contains("hook_failed"), "{error}");
        let hooks: Vec<String> = application.heard().into_iter().map(|heard| heard.hook).collect();
        assert_eq!(hooks.first().map(String::as_str), Some("create"));
        assert_eq!(hooks.iter().filter(|hook| *hook == "create").count(), 1, "a refusal is not asked for again");
    }
    // Name and host are free again.
    application.will_answer(&["200 OK\r\n\r\n{\"id\": \"fine\"}"]);
    world.create("acme", "hobby").await;
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_asked_for_again_under_the_same_key() {
    let application = Application::start().await;
    let world = world(&application).await;
    application.will_answer(&[
        "201 Created\r\nContent-Length: 12\r\n\r\n",
        "201 Created\r\nContent-Length: 12\r\n\r\n{\"id\": ",
        "201 Created\r\nContent-Length: 13\r\n\r\n{\"id\": \"b-7\"}",
    ]);
    let made = world.create("acme", "hobby").await;
    assert_eq!(
        made.key.map(|key| key.to_string()).as_deref(),
        Some("b-7"),
        "not a tenant without the application's key"
    );
    let heard: Vec<String> = application.heard().into_iter().map(|heard| heard.key).collect();
    assert_eq!(heard.len(), 3);
    assert!(heard.iter().all(|key| *key == heard[0]), "{heard:?}");
}

#[tokio::test]
async fn a_sql_hook_waits_its_time_for_a_lock_and_is_then_run_again() {
    let world = World::new().await;
    let migration = world.tenants.connect(Role::Owner).await;
    migration.batch_execute("BEGIN; LOCK TABLE customers").await.unwrap();
    let begun = tenants::create(&world.app, &change(), wanted("acme", "hobby")).await.unwrap();
    let heard = async {
        loop {
            let said = format!("{:?}", world.store.show(begun.id).await.unwrap());
            if said.contains("lock timeout") {
                break said;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let freed = async {
        let said = heard.await;
        migration.batch_execute("ROLLBACK").await.unwrap();
        said
    };
    let (ended, said) = tokio::join!(world.carry_out(begun.id), freed);
    assert_eq!(ended, OperationState::Succeeded, "{said}");
    assert!(world.root_rows().await.iter().any(|row| row.ends_with(" acme")));
}
