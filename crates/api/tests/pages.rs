//! The dashboard in front of a made-up `/v1`: what it lets through, what it refuses, and that it never says more.

mod fake_v1;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use berth_api::pages::{PagesSettings, router};
use fake_v1::{ADMIN, AGREED, Fake, OPERATION, TENANT};
use tower::ServiceExt as _;

/// Every page that only shows.
const PAGES: &[&str] = &[
    "/",
    "/tenants",
    "/tenants?filter=acme",
    "/tenants/new",
    "/tenants/acme",
    "/tenants/acme/access",
    "/tenants/acme/profile",
    "/tenants/acme/move",
    "/tenants/acme/plan",
    "/tenants/acme/plan?plan=professional",
    "/tenants/acme/suspend",
    "/tenants/blue/resume",
    "/tenants/acme/delete",
    "/tenants/acme/erase",
    "/imports",
    "/imports?archive=01980000-0000-7000-8000-000000000001&name=back&plan=hobby&hosts=back.example&cell=shared-1",
    "/cells",
    "/cells/new",
    "/cells/shared-1",
    "/cells/shared-1/drain",
    "/cells/shared-1/remove",
    "/cells/shared-1/abilities",
    "/cells/shared-1/database",
    "/cells/shared-1/sync",
    "/cells/new?class=dedicated&region=fsn1&max_tenants=1",
    "/edges",
    "/servers",
    "/erasures",
    "/drains/tenant/acme/begin",
    "/drains/edge/fra-1/undo",
    "/drains/member/shared-1:01980000-0000-7000-8000-000000000003/undo",
    "/certificates/01980000-0000-7000-8000-000000000004/remove",
    "/certificates/new",
    "/costs",
    "/costs?month=2026-10",
    "/fleet",
    "/fleet?only=shared-1",
    "/fleet?growth=20&months=6",
    "/operations",
    "/operations?open=true",
    "/operations/01980000-0000-7000-8000-000000000001",
    "/approvals",
    "/releases",
    "/releases/7",
    "/releases/new",
    "/releases/back",
    "/releases/back?to=5",
    "/approvals?all=true",
    "/approvals/01980000-0000-7000-8000-000000000001",
    "/approvals/01980000-0000-7000-8000-000000000002",
    "/audit",
    "/audit?tenant=acme",
];

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The value of a hidden field of the page's last form.
    fn hidden(&self, name: &str) -> String {
        let mark = format!("name=\"{name}\" value=\"");
        let rest = self.text.rsplit(&mark).next().expect("a page has at least one part");
        rest.split('"').next().unwrap_or_default().to_owned()
    }
}

async fn ask(app: &Router, request: Request<Body>) -> Answer {
    let answer = app.clone().oneshot(request).await.expect("a router never fails");
    let (status, headers) = (answer.status(), answer.headers().clone());
    let bytes = to_bytes(answer.into_body(), 8 << 20).await.expect("a page's body");
    Answer { status, headers, text: String::from_utf8(bytes.to_vec()).expect("pages are UTF-8") }
}

fn get(path: &str, key: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().uri(path).header(header::HOST, "berth.example");
    if let Some(key) = key {
        request = request.header(header::COOKIE, format!("theme=x; berth_key={key}"));
    }
    request.body(Body::empty()).expect("a request")
}

fn post(path: &str, key: &str, form: &str) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, "berth.example")
        .header(header::COOKIE, format!("berth_key={key}"))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .expect("a request")
}

fn dashboard(fake: &Fake) -> Router {
    router(fake.router(), PagesSettings::default())
}

#[tokio::test]
async fn every_page_is_whole_and_asks_no_other_host() {
    let fake = Fake::default();
    for path in PAGES {
        let page = ask(&dashboard(&fake), get(path, Some(ADMIN))).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        assert!(page.text.trim_end().ends_with("</html>"), "{path}");
        assert!(
            !page.text.contains("src=\"http") && !page.text.contains("href=\"http") && !page.text.contains("//cdn"),
            "{path}"
        );
        assert!(!page.text.contains(ADMIN), "{path} shows the key");
        assert!(page.header(header::CONTENT_SECURITY_POLICY).contains("default-src 'none'"), "{path}");
        assert_eq!(page.header(header::CACHE_CONTROL), "no-store", "{path}");
    }
    assert_eq!(*fake.changes.lock().unwrap(), [], "looking changes nothing");
}

#[tokio::test]
async fn an_empty_berth_says_what_to_do_first() {
    let fake = Fake { empty: true, ..Fake::default() };
    let first = [
        ("/", "berth apply"),
        ("/tenants", "/tenants/new"),
        ("/cells", "/cells/new"),
        ("/costs", "nothing has cost anything"),
        ("/fleet", "Nothing to do"),
        ("/operations", "Nothing has been done"),
        ("/servers", "berth cell add NAME --host HOST"),
        ("/erasures", "No tenant was erased"),
        ("/imports", "berth apply"),
        ("/releases", "/releases/new"),
        ("/audit", "Nothing has been changed"),
    ];
    for (path, expected) in first {
        let page = ask(&dashboard(&fake), get(path, Some(ADMIN))).await;
        assert!(page.text.contains(expected), "{path}: {}", page.text);
    }
}

#[tokio::test]
async fn what_nobody_measured_is_a_question_mark() {
    let page = ask(&dashboard(&Fake::default()), get("/", Some(ADMIN))).await;
    assert!(page.text.contains("cells cost ?"), "{}", page.text);
    let page = ask(&dashboard(&Fake::default()), get("/tenants/acme/move", Some(ADMIN))).await;
    assert!(page.text.contains("<dt>expected to take</dt><dd>?</dd>"), "{}", page.text);
}

#[tokio::test]
async fn servers_are_shown_with_what_they_have_or_why_nobody_knows() {
    let page = ask(&dashboard(&Fake::default()), get("/servers", Some(ADMIN))).await;
    let plain = page.text.replace('\u{a0}', " ");
    for says in [
        "berth-ssh@203.0.113.7:22",
        "SHA256:one",
        "Debian GNU/Linux 12 (bookworm), x86_64, 8 cpus",
        "6.0 GiB of 16.0 GiB",
        "nearly full",
        "does not answer</span> <span class=\"soft\">its SSH does ",
        "none is pinned",
    ] {
        assert!(plain.contains(says), "{says}: {plain}");
    }
    assert!(!plain.contains("0 B of"), "what nobody knows is no nothing: {plain}");
    assert!(!plain.contains("<b>not</b>"), "what a server says is text: {plain}");
}

#[tokio::test]
async fn a_tenants_archives_exports_and_erasures_are_shown_with_their_state() {
    let app = dashboard(&Fake::default());
    let plain = |page: Answer| page.text.replace(['\u{a0}', '\u{202f}'], " ");
    let page = plain(ask(&app, get("/tenants/blue", Some(ADMIN))).await);
    let archives = page.split("<h2>Archives</h2>").nth(1).unwrap_or_else(|| panic!("{page}"));
    let archives = archives.split("<h2>").next().unwrap();
    for says in ["export tenant", "stuck", "the hook answered twice", "complete", "left behind", "1 234", "2.0 MiB"] {
        assert!(archives.contains(says), "{says}: {archives}");
    }
    assert!(!archives.contains("move tenant"), "{archives}");
    let page = plain(ask(&app, get("/erasures", Some(ADMIN))).await);
    for says in ["rows of positions", "cell shared-1", "20 000", "Kept: invoices", "ten years"] {
        assert!(page.contains(says), "{says}: {page}");
    }
}

#[tokio::test]
async fn the_list_says_what_tenants_use_cost_and_leave_and_unknown_is_a_question_mark() {
    let page = ask(&dashboard(&Fake::default()), get("/tenants", Some(ADMIN))).await;
    let plain = page.text.replace(['\u{a0}', '\u{202f}'], " ");
    let row = |name: &str| {
        let row = plain.split("<tr>").find(|row| row.contains(&format!("/tenants/{name}\">{name}<")));
        row.unwrap_or_else(|| panic!("{name}: {plain}")).to_owned()
    };
    for says in ["91 %", "gps points per day", "nearly used up", "$30.00", "-$15.00", "loss"] {
        assert!(row("acme").contains(says), "{says}: {}", row("acme"));
    }
    let blue = row("blue");
    assert!(blue.contains(">?") && blue.contains("$14.00") && !blue.contains("loss"), "{blue}");
    assert!(row("tenant-3").contains("no limit") && row("tenant-3").matches(">?<").count() == 2, "{}", row("tenant-3"));
    assert!(row("tenant-4").contains("100 %") && row("tenant-4").contains(">over<"), "{}", row("tenant-4"));
    assert!(row("tenant-5").matches(">?<").count() >= 3, "of whom nothing is said: {}", row("tenant-5"));
}

#[tokio::test]
async fn what_cannot_be_taken_back_needs_the_tenants_name_typed_in() {
    let fake = Fake::default();
    let app = dashboard(&fake);
    for verb in ["delete", "erase"] {
        let page = ask(&app, get(&format!("/tenants/blue/{verb}"), Some(ADMIN))).await;
        assert!(
            page.text.contains("Type <strong>blue</strong>") && page.text.contains("for=\"typed\""),
            "{}",
            page.text
        );
        let csrf = page.hidden("csrf");
        for typed in ["", "&typed=", "&typed=acme", "&typed=Blue", "&typed=blu"] {
            let form = format!("csrf={csrf}{typed}");
            let answer = ask(&app, post(&format!("/tenants/blue/{verb}"), ADMIN, &form)).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{verb} with {typed:?}: {}", answer.text);
        }
    }
    assert_eq!(*fake.changes.lock().unwrap(), []);
}

#[tokio::test]
async fn a_databases_page_says_what_is_missing_what_follows_and_what_it_is_busy_with() {
    let app = dashboard(&Fake::default());
    let mut plain = String::new();
    for path in ["/cells/shared-1/abilities", "/cells/shared-1/database"] {
        plain += &ask(&app, get(path, Some(ADMIN))).await.text.replace(['\u{a0}', '\u{202f}'], " ");
    }
    for says in [
        "Takes writes",
        "Why not: permission &#60;b&#62;denied&#60;/b&#62;",
        "What follows: what follows",
        "Remedy: grant it",
        "locks of 640",
        "95 s",
        "The whole database: 5.0 GiB",
        "1.0 GiB",
        "read by nobody",
        "3.0 GiB",
        "read now</span></td><td class=\"number\">?",
    ] {
        assert!(plain.contains(says), "{says}: {plain}");
    }
    assert!(!plain.contains("<b>"), "what a database says is text: {plain}");
}

#[tokio::test]
async fn releases_are_named_by_digest_gone_back_on_with_a_plan_and_pulled_with_accounts_that_are_names() {
    let app = dashboard(&Fake::default());
    let page = ask(&app, get("/releases", Some(ADMIN))).await.text;
    assert!(
        page.contains("registry.example.com") && page.contains("shop-bot") && !page.contains("password\""),
        "{page}"
    );
    let page = ask(&app, get("/cells/shared-1", Some(ADMIN))).await.text;
    assert!(page.contains("pulled with accounts of registry.example.com"), "{page}");
    let page = ask(&app, get("/releases/back", Some(ADMIN))).await.text;
    for says in ["shared-1 (r7 now, then r5), acme-1 (r7 now, then r6)", "existing-1 is left out: somebody else"] {
        assert!(page.contains(says), "{says}: {page}");
    }
    let csrf = ask(&app, get("/releases/new", Some(ADMIN))).await.hidden("csrf");
    for (services, says) in [("web", "there is no `=`"), ("web%3Da%0Aweb%3Db", "named twice")] {
        let form = format!("csrf={csrf}&services={services}");
        let answer = ask(&app, post("/releases", ADMIN, &form)).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text);
        assert!(answer.text.contains(says), "{says}: {}", answer.text);
    }
    let page = ask(&app, get("/cells/new", Some(ADMIN))).await.text;
    for says in ["hetzner-shared", "$45.99", "/cells/new?class=shared&#38;region=fsn1&#38;max_tenants=150#name"] {
        assert!(page.contains(says), "{says}: {page}");
    }
}

#[tokio::test]
async fn nobody_sees_a_page_without_a_key() {
    let app = dashboard(&Fake::default());
    let live = format!("/operations/{OPERATION}/live");
    for path in PAGES.iter().copied().chain([live.as_str()]) {
        for key in [None, Some("bk_unknown_key"), Some("short"), Some("bk_with;semicolon")] {
            let page = ask(&app, get(path, key)).await;
            assert_eq!(
                (page.status, page.header(header::LOCATION)),
                (StatusCode::SEE_OTHER, "/login"),
                "{path} with {key:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_key_of_another_scope_is_refused_on_pages_and_streams_alike() {
    let app = dashboard(&Fake::default());
    for path in ["/", "/tenants", &format!("/operations/{OPERATION}/live")] {
        let page = ask(&app, get(path, Some(TENANT))).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{path}");
        assert!(page.text.contains("this key is for one tenant"), "{path}: {}", page.text);
    }
}

#[tokio::test]
async fn logging_in_turns_a_good_key_into_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let app = dashboard(&Fake::default());
    let good = ask(&app, post("/login", "", &format!("key={ADMIN}"))).await;
    assert_eq!((good.status, good.header(header::LOCATION)), (StatusCode::SEE_OTHER, "/"));
    let cookie = good.header(header::SET_COOKIE);
    assert!(cookie.starts_with(&format!("berth_key={ADMIN};")), "{cookie}");
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("Secure"),
        "{cookie}"
    );

    let mut behind_tls = post("/login", "", &format!("key={ADMIN}"));
    behind_tls.headers_mut().insert("x-forwarded-proto", "https".parse().unwrap());
    assert!(ask(&app, behind_tls).await.header(header::SET_COOKIE).contains("; Secure"));

    for bad in ["bk_unknown_key", TENANT, "", "x", "bk_%0d%0aSet-Cookie"] {
        let refused = ask(&app, post("/login", "", &format!("key={bad}"))).await;
        assert_eq!((refused.status, refused.header(header::SET_COOKIE)), (StatusCode::UNAUTHORIZED, ""), "{bad}");
    }
}

#[tokio::test]
async fn a_form_that_is_not_the_visitors_own_changes_nothing() {
    let fake = Fake::default();
    let app = dashboard(&fake);
    let own = ask(&app, get("/tenants/blue/resume", Some(ADMIN))).await.hidden("csrf");
    for form in ["", "csrf=", "csrf=00", &format!("csrf={}0", &own[1..]), &format!("Csrf={own}")] {
        for path in [
            "/tenants/blue/resume",
            "/tenants",
            "/cells",
            "/cells/shared-1/drain",
            "/cells/shared-1/sync",
            "/tenants/acme/erase",
            "/imports",
            "/releases",
            "/releases/back",
            "/drains/tenant/acme/begin",
            "/certificates/01980000-0000-7000-8000-000000000004/remove",
            &format!("/operations/{OPERATION}/retry"),
            "/tenants/acme/move",
            "/logout",
        ] {
            let answer = ask(&app, post(path, ADMIN, form)).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} with {form:?}");
        }
    }
    let mut foreign = post("/tenants/blue/resume", ADMIN, &format!("csrf={own}"));
    foreign.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    assert_eq!(ask(&app, foreign).await.status, StatusCode::FORBIDDEN);
    assert_eq!(*fake.changes.lock().unwrap(), []);
}

#[tokio::test]
async fn a_form_sent_twice_asks_for_one_change() {
    let fake = Fake::default();
    let app = dashboard(&fake);
    let page = ask(&app, get("/tenants/acme/move", Some(ADMIN))).await;
    let form = format!("csrf={}&once={}&to={}", page.hidden("csrf"), page.hidden("once"), page.hidden("to"));
    for _ in 0..2 {
        let answer = ask(&app, post("/tenants/acme/move", ADMIN, &form)).await;
        assert_eq!(
            (answer.status, answer.header(header::LOCATION)),
            (StatusCode::SEE_OTHER, &*format!("/operations/{OPERATION}"))
        );
    }
    let changes = fake.changes.lock().unwrap().clone();
    assert_eq!(changes.len(), 2);
    assert_eq!((&changes[0].path[..], &changes[0].body["to"]), ("/v1/tenants/acme/moves", &"acme-1".into()));
    assert!(changes[0].once.is_some() && changes[0] == changes[1], "{changes:?}");
}

#[tokio::test]
async fn forms_become_the_requests_of_the_api() {
    let fake = Fake::default();
    let app = dashboard(&fake);
    let csrf = ask(&app, get("/tenants/new", Some(ADMIN))).await.hidden("csrf");
    for (path, fields) in [
        ("/tenants", "name=new-one&plan=hobby&hosts=a.example+b.example"),
        ("/cells", "name=shared-2&class=shared&provider=&region=&max_tenants=12"),
        ("/cells/shared-1/drain", ""),
        ("/tenants/blue/delete", "typed=blue"),
        ("/tenants/blue/erase", "typed=blue"),
        ("/imports", "archive=01980000-0000-7000-8000-000000000001&name=back&plan=hobby&hosts=a.example&cell="),
        (
            "/releases",
            "services=web%3Dregistry.test%2Fweb%40sha256%3A00%0D%0A%0D%0A+worker%3D%2Fopt%2Fw%40sha256%3A01+",
        ),
        ("/releases/7/roll", "only-acme-1=yes"),
        ("/releases/back", "to=5"),
        ("/drains/tenant/acme/begin", ""),
        ("/drains/edge/fra-1/undo", ""),
        ("/drains/member/shared-1:01980000-0000-7000-8000-000000000003/undo", ""),
        ("/certificates/01980000-0000-7000-8000-000000000004/remove", ""),
    ] {
        let answer = ask(&app, post(path, ADMIN, &format!("csrf={csrf}&{fields}"))).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{path}: {}", answer.text);
    }
    let asked: Vec<String> =
        fake.changes.lock().unwrap().iter().map(|it| format!("{} {} {}", it.method, it.path, it.body)).collect();
    assert_eq!(
        asked,
        [
            r#"POST /v1/tenants {"cell":null,"hosts":["a.example","b.example"],"key":null,"name":"new-one","plan":"hobby"}"#,
            r#"POST /v1/cells {"class":"shared","max_tenants":12,"name":"shared-2","provider":null,"region":null}"#,
            "POST /v1/cells/shared-1/drain {}",
            "DELETE /v1/tenants/blue {}",
            "POST /v1/tenants/blue/erase {}",
            r#"POST /v1/imports {"archive":"01980000-0000-7000-8000-000000000001","cell":null,"hosts":["a.example"],"name":"back","plan":"hobby"}"#,
            r#"POST /v1/releases {"services":{"web":"registry.test/web@sha256:00","worker":"/opt/w@sha256:01"}}"#,
            r#"POST /v1/rollout {"release":7,"to":["acme-1"]}"#,
            r#"POST /v1/rollout/back {"to":5}"#,
            "POST /v1/tenants/acme/drain {}",
            "DELETE /v1/edges/fra-1/drain {}",
            "DELETE /v1/cells/shared-1/members/01980000-0000-7000-8000-000000000003/drain {}",
            "DELETE /v1/certificates/01980000-0000-7000-8000-000000000004 {}",
        ]
    );
    let wrong = ask(&app, post("/tenants", ADMIN, &format!("csrf={csrf}&name=Not+a+name&plan=hobby"))).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(wrong.text.contains("Not a name"), "{}", wrong.text);
}

#[tokio::test]
async fn moves_of_the_plan_that_could_not_start_are_shown_with_what_the_rest_needs() {
    let fake = Fake::default();
    let app = dashboard(&fake);
    let csrf = ask(&app, get("/fleet", Some(ADMIN))).await.hidden("csrf");
    let begun = ask(&app, post("/fleet", ADMIN, &format!("csrf={csrf}&only="))).await;
    assert_eq!(begun.status, StatusCode::OK, "{}", begun.text);
    for says in [
        &format!("/operations/{OPERATION}")[..],
        "not started: it is &#60;b&#62;moving&#60;/b&#62; already",
        "cell old-1 cannot be removed now: somebody drains it",
        "from the offer fly-own, $10.00 a month",
        "/cells/acme-1/remove",
        "2 moves of the plan are left",
    ] {
        assert!(begun.text.contains(says), "{says} is missing in {}", begun.text);
    }
    assert_eq!(fake.changes.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_agreed_to_and_waits_is_listed_and_can_be_taken_back() {
    let fake = Fake::default();
    let app = dashboard(&fake);
    let list = ask(&app, get("/approvals", Some(ADMIN))).await;
    assert!(list.text.contains(&format!("/approvals/{AGREED}")), "{}", list.text);
    let page = ask(&app, get(&format!("/approvals/{AGREED}"), Some(ADMIN))).await;
    assert!(
        page.text.contains("Take it back") && page.text.contains("no shared cell &#60;b&#62;has room"),
        "{}",
        page.text
    );
    assert!(!page.text.contains(&format!("/approvals/{AGREED}/approve")), "it is agreed to already: {}", page.text);
    let form = format!("csrf={}&reason=too+dear", page.hidden("csrf"));
    let answer = ask(&app, post(&format!("/approvals/{AGREED}/reject"), ADMIN, &form)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    let changes = fake.changes.lock().unwrap().clone();
    assert_eq!(changes[0].path, format!("/v1/approvals/{AGREED}/reject"));
    assert_eq!(changes[0].body["reason"], "too dear");
}

#[tokio::test]
async fn a_refusal_is_told_with_its_hint_and_cannot_smuggle_markup() {
    let app = dashboard(&Fake::default());
    let csrf = ask(&app, get("/tenants/new", Some(ADMIN))).await.hidden("csrf");
    let refused = ask(&app, post("/tenants/full/move", ADMIN, &format!("csrf={csrf}&to=shared-1"))).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains("another way") && refused.text.contains("req-1"), "{}", refused.text);
    assert!(refused.text.contains("&#60;b&#62;") && !refused.text.contains("<b>"), "{}", refused.text);

    let unknown = ask(&app, get("/tenants/%3Cscript%3E", Some(ADMIN))).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(!unknown.text.contains("<script>"), "{}", unknown.text);
}

#[tokio::test]
async fn a_move_is_followed_as_it_happens_and_the_stream_ends_with_it() {
    let app = dashboard(&Fake::default());
    let live = ask(&app, get(&format!("/operations/{OPERATION}/live"), Some(ADMIN))).await;
    assert_eq!((live.status, live.header(header::CONTENT_TYPE)), (StatusCode::OK, "text/event-stream"));
    let events: Vec<&str> = live.text.lines().filter(|line| line.starts_with("event:")).collect();
    assert_eq!(events, ["event: operation", "event: operation", "event: end"]);
    assert!(live.text.contains("412\u{202f}000 of 1\u{202f}000\u{202f}000 rows"), "{}", live.text);
    assert!(live.text.lines().all(|line| line.is_empty()
        || line.starts_with("event:")
        || line.starts_with("data:")
        || line.starts_with(':')));
    let (_, end) = live.text.rsplit_once("event: operation").unwrap();
    assert!(
        end.contains("verified rows") && end.contains("12\u{a0}ms"),
        "the last piece has the move's figures: {end}"
    );
}

#[tokio::test]
async fn open_pages_are_open_to_names_of_this_machine_only() {
    let app = router(Fake::default().router(), PagesSettings { open: Some(ADMIN.into()) });
    let asked = |host: &str| {
        let mut request = get("/", None);
        request.headers_mut().insert(header::HOST, host.parse().expect("a host"));
        request
    };
    for host in ["127.0.0.1:7600", "localhost:7600", "[::1]:7600"] {
        let page = ask(&app, asked(host)).await;
        assert_eq!(page.status, StatusCode::OK, "{host}");
        assert!(page.text.contains("demo: open to this machine") && !page.text.contains("Log out"));
    }
    for host in ["rebound.example", "127.0.0.1.rebound.example:7600"] {
        assert_eq!(ask(&app, asked(host)).await.status, StatusCode::SEE_OTHER, "{host}");
    }
}

#[tokio::test]
async fn files_of_the_dashboard_come_from_the_program() {
    let app = dashboard(&Fake::default());
    for (path, kind) in [
        ("/assets/berth.css", "text/css"),
        ("/assets/vendor/htmx.min.js", "text/javascript"),
        ("/assets/berth.svg", "image/svg+xml"),
    ] {
        let file = ask(&app, get(path, None)).await;
        assert_eq!(file.status, StatusCode::OK, "{path}");
        assert!(file.header(header::CONTENT_TYPE).starts_with(kind), "{path}");
    }
    for path in ["/assets/", "/assets/../src/lib.rs", "/assets/README.md"] {
        assert_eq!(ask(&app, get(path, None)).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}
