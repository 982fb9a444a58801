//! A `/v1` with made-up answers that writes down what it was asked: pages are tested without a control plane.
//!
//! Two keys: `bk_admin_key` may do everything, `bk_tenant_key` is refused with 403. Never validates a body.

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

pub const ADMIN: &str = "bk_admin_key";
pub const TENANT: &str = "bk_tenant_key";
pub const OPERATION: &str = "01980000-0000-7000-8000-000000000001";
/// An approval that is agreed to.
pub const AGREED: &str = "01980000-0000-7000-8000-000000000002";

/// One change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub once: Option<String>,
    pub body: Value,
}

/// What it was asked to change, in order.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    pub changes: Arc<Mutex<Vec<Asked>>>,
    /// Nothing was set up yet.
    pub empty: bool,
}

impl Fake {
    pub fn router(&self) -> Router {
        let fake = self.clone();
        Router::new().fallback(move |request: Request| {
            let fake = fake.clone();
            async move { fake.answer(request).await }
        })
    }

    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        match header(header::AUTHORIZATION.as_str()).as_deref() {
            Some("Bearer bk_admin_key") => {}
            Some("Bearer bk_tenant_key") => return problem(403, "forbidden", "this key is for one tenant"),
            _ => return problem(401, "unauthenticated", "no key"),
        }
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        if method != Method::GET {
            let once = header("idempotency-key");
            let bytes = to_bytes(body, 1 << 20).await.expect("a small body");
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            let path = uri.path().to_owned();
            if path.ends_with("/plan-move") {
                return Json(plan_move()).into_response();
            }
            if path == "/v1/costs/phase" {
                return Json(phase()).into_response();
            }
            if path == "/v1/fleet/simulate" {
                let month = |n: u32| {
                    json!({ "month": n, "tenants": 20 + n, "cells": 2, "cost_cents": 9219, "revenue_cents": 30000 + n,
                    "margin_cents": 20781 + n, "moves": 1, "nowhere": 0, "gap_percent": 0.0 })
                };
                return Json(json!({ "items": [month(0), month(1)], "next": null })).into_response();
            }
            if path == "/v1/fleet/apply" {
                self.changes.lock().expect("no test panics here").push(Asked { method, path, once, body });
                return Json(json!({
                    "started": [{ "tenant": "acme", "to": "shared-2", "operation": OPERATION, "trouble": null },
                                { "tenant": "nova", "to": "shared-2", "operation": null, "trouble": "it is <b>moving</b> already" }],
                    "needs": [{ "cell": "new-1", "offer": "fly-own", "price_cents": 1000 }], "removable": ["acme-1"],
                    "cells": [{ "cell": "old-1", "removed": true, "operation": null, "trouble": "somebody drains it" }], "left": 2
                }))
                .into_response();
            }
            if let Some(answer) = looked(&path) {
                return Json(answer).into_response();
            }
            if path == "/v1/releases" {
                self.changes.lock().expect("no test panics here").push(Asked { method, path, once, body });
                return (StatusCode::CREATED, Json(release())).into_response();
            }
            if path == "/v1/rollout/plan" {
                return Json(json!({ "release": 7, "before": 6, "back": false, "pause_ms": null, "workers": "after", "left_out": [],
                    "waves": [[{ "cell": "shared-1", "before": 6 }]] }))
                .into_response();
            }
            if path.starts_with("/v1/rollout") {
                self.changes.lock().expect("no test panics here").push(Asked { method, path, once, body });
                return (StatusCode::ACCEPTED, Json(roll())).into_response();
            }
            if path == "/v1/tenants/full/moves" {
                return problem(409, "cell_full", "cell `<b>shared-1</b>` has no room");
            }
            self.changes.lock().expect("no test panics here").push(Asked { method, path: path.clone(), once, body });
            let answer = match path.split('/').collect::<Vec<_>>()[..] {
                [_, _, "cells", _, "drain"] => cell("shared-1", "shared", 19),
                [.., "drain"] => drains()[0]["drain"].clone(),
                [_, _, "certificates"] | [_, _, "certificates", _] => certificate(),
                [_, _, "certificates", "orders", _, "renew"] => order(),
                [_, _, "hosts"] | [_, _, "hosts", ..] => host(),
                [_, _, "approvals", ..] => agreed(),
                [_, _, "tenants", name, "limits"] => limits(name),
                [_, _, "tenants", _, "allow"] => tenants().remove(0),
                _ => operation("queued"),
            };
            return (StatusCode::ACCEPTED, Json(answer)).into_response();
        }
        if uri.path() == "/v1/approvals" && uri.query() == Some("state=approved") {
            return Json(json!({ "items": [agreed()], "next": null })).into_response();
        }
        self.read(uri.path())
    }

    fn read(&self, path: &str) -> Response {
        let list = |items: Vec<Value>| Json(json!({ "items": if self.empty { vec![] } else { items }, "next": null }));
        let segments: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        match segments[..] {
            ["status"] => Json(self.status()).into_response(),
            ["tenants"] => list(tenants()).into_response(),
            ["tenants", name] => match tenants().into_iter().find(|tenant| tenant["name"] == name) {
                Some(tenant) => Json(tenant).into_response(),
                None => problem(404, "unknown_tenant", "there is no tenant of that name"),
            },
            ["plans"] => list(["hobby", "professional"].map(plan).into()).into_response(),
            ["plans", name] => Json(plan(name)).into_response(),
            ["cells"] => list(vec![cell("shared-1", "shared", 19), cell("acme-1", "dedicated", 0)]).into_response(),
            ["cells", name, "abilities"] => Json(abilities(name)).into_response(),
            ["cells", name, "database", "top"] => Json(database(name)).into_response(),
            ["catalogue"] => Json(catalogue()).into_response(),
            ["registries"] => list(vec![registry()]).into_response(),
            ["costs", "tenants"] => list(figures()).into_response(),
            ["cells", name, "logs"] => list(vec![log(name)]).into_response(),
            ["cells", name] => Json(cell(name, "shared", 19)).into_response(),
            ["servers"] => list(servers()).into_response(),
            ["erasures"] => list(vec![erasure()]).into_response(),
            ["tenants", name, "limits"] => Json(limits(name)).into_response(),
            ["tenants", _, "plan-price"] => Json(plan_price()).into_response(),
            ["tenants", name, "archives"] => list(vec![archive(name)]).into_response(),
            ["edges"] => list(vec![edge("fra-1", true), edge("hel-1", false)]).into_response(),
            [.., "drain"] => Json(drains()[0]["drain"].clone()).into_response(),
            ["drains"] => list(drains()).into_response(),
            ["certificates"] => list(vec![certificate()]).into_response(),
            ["certificates", "orders"] => list(vec![order()]).into_response(),
            ["hosts"] => list(vec![host()]).into_response(),
            ["operations"] => list(vec![operation("running"), operation("stuck"), export()]).into_response(),
            ["operations", _] => Json(operation("running")).into_response(),
            ["operations", _, "events"] => {
                ([(header::CONTENT_TYPE, "text/event-stream")], Body::from(events())).into_response()
            }
            ["costs"] => Json(self.costs()).into_response(),
            ["costs", "months"] => {
                list(vec![cost_month("2026-10", true), cost_month("2026-11", false)]).into_response()
            }
            ["fleet", "plan"] => Json(self.fleet_plan()).into_response(),
            ["moves"] => list(vec![moved()]).into_response(),
            ["tenants", _, "usage"] => Json(usage()).into_response(),
            ["approvals"] => list(vec![approval()]).into_response(),
            ["approvals", AGREED] => Json(agreed()).into_response(),
            ["approvals", _] => Json(approval()).into_response(),
            ["tenants", _, "profile"] => Json(json!({ "quantities": { "vehicles": 12 }, "users": 7 })).into_response(),
            ["releases"] => list(vec![release()]).into_response(),
            ["releases", _] => Json(json!({ "release": release(), "rolls": [roll()] })).into_response(),
            ["rollout"] => {
                Json(json!({ "current": 6, "roll": if self.empty { json!(null) } else { roll() }, "cells": [] }))
                    .into_response()
            }
            ["audit"] => list(vec![audit()]).into_response(),
            _ => problem(404, "not_found", "nothing here"),
        }
    }

    fn costs(&self) -> Value {
        let row = |name: &str| {
            json!({ "name": name, "cost_cents": 100, "revenue_cents": 1500, "margin_cents": 1400, "idle_cents": 0, "tenants": 1,
                    "plan": "hobby", "cell": "shared-1" })
        };
        let cell = json!({
            "name": "shared-1", "class": "shared", "provider": "local", "cost_cents": 8800, "idle_cents": 8700, "revenue_cents": 1500,
            "margin_cents": -7300, "taken_percent": 1.1, "tenants": 1, "places": 150, "shared_by": "places", "month_cents": 9219,
            "break_even": 7
        });
        let all = |it: Value| if self.empty { json!([]) } else { json!([it]) };
        json!({
            "month": "2026-11", "until": now(0), "over": false, "cost_cents": 8800, "revenue_cents": 1500, "margin_cents": -7300,
            "idle_cents": 8700, "common_cents": 0, "unknown": all(json!("acme-1")),
            "invoices": all(json!({ "provider": "local", "source": "computed", "cost_cents": 8800, "amounts": ["80.00 EUR"],
                                    "lines": 4, "rates_of": "2026-11-21" })),
            "tenants": all(row("acme")), "plans": all(row("hobby")), "providers": all(row("local")), "cells": all(cell),
            "forecast": { "cost_cents": 9219, "revenue_cents": 1500, "margin_cents": -7719 },
            "budget": { "currency": "EUR", "amount_cents": 5000, "forecast_cents": 8381, "left_cents": -3381, "level": "over" },
            "advice": all(json!({ "code": "cell_thin", "about": "cell shared-1", "says": "1 of 150 <b>places</b>", "saves_cents": 7,
                                  "command": "berth fleet plan" })),
            "assumptions": ["prices of the catalogue"]
        })
    }

    fn fleet_plan(&self) -> Value {
        let step = json!({ "why": "empty", "opens": [{ "cell": "new-1", "offer": "fly-own", "price_cents": 1000 }],
                           "moves": [{ "tenant": "acme", "from": "shared-1", "to": "new-1" }], "closes": ["acme-1"],
                           "saves_cents": 5000 });
        json!({
            "steps": if self.empty { json!([]) } else { json!([step]) }, "before_cents": 9219, "after_cents": 4219,
            "bound_cents": 4200, "gap_percent": 0.5, "moves": 1, "cells_before": 2, "cells_after": 2, "wrong_before": 0,
            "wrong_after": 0, "nowhere": []
        })
    }

    fn status(&self) -> Value {
        let n = |count: u32| if self.empty { 0 } else { count };
        json!({
            "version": "0.1.0",
            "stack": (!self.empty).then_some("fleet"),
            "stack_revision": (!self.empty).then_some(3),
            "tenants": { "total": n(20), "active": n(19), "moving": n(1), "provisioning": 0, "suspended": 0, "failed": 0 },
            "cells": { "total": n(2), "ready": n(2), "members": n(2), "members_healthy": n(2) },
            "operations_open": n(1),
            "attention": if self.empty { json!([]) } else { json!([{
                "code": "operation_stuck", "subject": "operation create tenant", "detail": "the hook answered twice with another key",
                "hint": "look at the hook, then try again", "operation": OPERATION
            }]) },
            "edges": if self.empty { json!([]) } else { json!([{
                "name": "edge-1", "instance": OPERATION, "revision": 41, "behind": 0, "alive": true, "seen_at": now(-2)
            }]) },
            "revenue_month_cents": if self.empty { 0 } else { 123_400 },
            "cost_month_cents": null,
            "reads_only": false,
            "at": now(0)
        })
    }
}

/// What is asked for by a POST and changes nothing.
fn looked(path: &str) -> Option<Value> {
    Some(match path.split('/').collect::<Vec<_>>()[..] {
        [_, _, "tenants", _, "plan-erase"] => {
            let mut plan = erasure();
            (plan["operation"], plan["at"]) = (json!(null), json!(null));
            plan
        }
        [_, _, "imports", "plan"] => json!({
            "name": "back", "key": "key-<b>1</b>", "cell": "shared-1", "new_cell": false, "made_at": now(-600), "rows": 1_234,
            "bytes": 2 << 20, "keys": 0, "objects": 3
        }),
        [_, _, "tenants", "sync"] => json!({
            "unknown_here": [{ "key": "key-<b>99</b>", "name": null }],
            "unknown_there": [{ "key": "key-1", "name": "acme" }], "taken_in": 0
        }),
        [_, _, "rollout", "back", "plan"] => json!({
            "release": 6, "before": 7, "back": true, "pause_ms": null, "workers": "after",
            "left_out": [{ "cell": "existing-1", "why": "somebody else releases there" }],
            "waves": [[{ "cell": "shared-1", "before": 7, "gets": 5 }, { "cell": "acme-1", "before": 7 }]]
        }),
        _ => return None,
    })
}

fn abilities(cell: &str) -> Value {
    let ability = |name: &str, can: bool| {
        json!({ "ability": name, "means": "what it is for", "can": can, "without": (!can).then_some("what follows"),
                "because": (!can).then_some("permission <b>denied</b>"), "remedy": (!can).then_some("grant it") })
    };
    json!({ "cell": cell, "items": [ability("takes_writes", true), ability("reads_changes", false)] })
}

fn database(cell: &str) -> Value {
    json!({
        "cell": cell, "bytes": 5_u64 << 30,
        "statements": [{ "pid": 812, "role": "berth_app", "application": "web", "state": "idle in transaction", "age_s": 95.0,
                         "waits_for": "Lock transactionid", "blocked_by": [640], "statement": "update <b>tickets</b> set title = ?" }],
        "tables": [{ "table": "tickets", "bytes": 1_u64 << 30, "rows": 30_000, "dead_rows": 12 }],
        "slots": [{ "slot": "forgotten", "read": false, "bytes": 3_u64 << 30 }, { "slot": "new", "read": true, "bytes": null }]
    })
}

fn catalogue() -> Value {
    json!({
        "version": "2026-11-01", "rates_of": "2026-11-21", "rates": {}, "providers": [], "says": [],
        "offers": [{ "name": "hetzner-shared", "class": "shared", "provider": "hetzner", "at": ["fsn1"], "places": 150,
                     "price_cents": 4_599, "compliance": ["gdpr"], "residency": ["eu"], "throughput_per_s": null, "users": null,
                     "upload_bytes": null }]
    })
}

fn registry() -> Value {
    json!({ "host": "registry.example.com", "user": "shop-bot", "changed_by": "ci", "changed_at": now(-60) })
}

fn figures() -> Vec<Value> {
    let of = |tenant: &str, quantity: Option<&str>, used: Option<u64>, cents: Option<(i64, i64)>| {
        json!({ "tenant": tenant, "quantity": quantity, "used": used, "limit": quantity.map(|_| 50_000),
                "cost_cents": cents.map(|(cost, _)| cost), "margin_cents": cents.map(|(_, margin)| margin) })
    };
    vec![
        of("acme", Some("gps_points_per_day"), Some(45_678), Some((3_000, -1_500))),
        of("blue", Some("vehicles"), None, Some((100, 1_400))),
        of("tenant-3", None, None, None),
        of("tenant-4", Some("vehicles"), Some(50_001), None),
    ]
}

fn phase() -> Value {
    json!({
        "phase": 1, "phase_from": "by the month's cost, EUR 30.00", "infrastructure": "one CX32", "euro_cents": 2585, "next": 2,
        "next_infrastructure": "two CX22", "next_euro_cents": 3190, "held": 1, "unknown": 8, "go": false,
        "triggers": [{ "trigger": "cpu_percent", "threshold": 70.0, "has": 71.5, "holds": true, "from": "the <b>busiest</b> cell" },
                     { "trigger": "p95_s", "threshold": 2.0, "has": null, "holds": null, "from": null }]
    })
}

fn plan_price() -> Value {
    let side = |plan: &str, class: &str, cents: u32, cell: &str, new: bool| {
        json!({ "plan": plan, "class": class, "price_cents": cents, "cell": cell, "new_cell": new, "cost_cents": 92,
                "margin_cents": cents - 92 })
    };
    json!({ "tenant": "acme", "moves": true, "now": side("hobby", "shared", 1500, "shared-1", false),
            "then": side("professional", "dedicated", 14_900, "acme-2", true) })
}

fn problem(status: u16, code: &str, detail: &str) -> Response {
    let body = json!({
        "type": format!("urn:berth:problem:{code}"), "title": "refused", "status": status, "detail": detail, "code": code,
        "hint": "another way", "retryable": false, "request_id": "req-1"
    });
    (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response()
}

fn now(seconds: i64) -> String {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + seconds)
        .expect("a moment of this century")
        .to_string()
}

fn tenants() -> Vec<Value> {
    let tenant = |n: u32, name: &str, plan: &str, state: &str, cell: &str| {
        json!({
            "id": format!("01980000-0000-7000-8000-{n:012}"), "name": name, "key": format!("key-{n}"), "plan": plan,
            "state": state, "cell": cell, "mode": "multi_tenant", "generation": 1, "hosts": [format!("{name}.example.test")],
            "operation": (state == "moving").then_some(OPERATION), "version": 1, "created_at": now(-90_000), "updated_at": now(-60)
        })
    };
    let mut all = vec![
        tenant(1, "acme", "professional", "moving", "shared-1"),
        tenant(2, "blue", "hobby", "suspended", "shared-1"),
    ];
    all.extend((3..=20).map(|n| tenant(n, &format!("tenant-{n}"), "hobby", "active", "shared-1")));
    all
}

fn limits(name: &str) -> Value {
    json!({
        "tenant": name, "plan": "hobby", "of_plan": { "requests_per_minute": { "api": 100 } },
        "own": { "requests_per_minute": { "api": 600 } }, "in_force": { "requests_per_minute": { "api": 600 } }, "version": 1
    })
}

fn plan(name: &str) -> Value {
    let class = if name == "hobby" { "shared" } else { "dedicated" };
    json!({
        "name": name, "price_cents": if name == "hobby" { 1_500 } else { 14_900 }, "class": class, "tenants": 19,
        "limits": { "requests_per_minute": { "api": 100 }, "body_bytes": null, "retention_days": 30, "quantities": { "vehicles": 100 } }
    })
}

fn cell(name: &str, class: &str, tenants: u32) -> Value {
    json!({
        "id": OPERATION, "name": name, "class": class, "state": "ready", "provider": "local", "region": null,
        "tenants": tenants, "max_tenants": 150, "price_cents": null, "database_bytes": 123_456_789, "operation": null,
        "members": [{
            "id": OPERATION, "service": "web", "service_role": "web", "role": "active", "state": "healthy",
            "address": "127.0.0.1:41231", "seen_at": now(-3)
        }],
        "created_at": now(-7_200)
    })
}

fn edge(name: &str, alive: bool) -> Value {
    json!({ "name": name, "instance": null, "revision": 41, "behind": 1, "alive": alive, "leaving": false, "seen_at": now(-9) })
}

fn drains() -> Vec<Value> {
    let drain = |done: bool, waiting: &[&str]| json!({ "draining": true, "since": now(-60), "grace_s": 30, "done": done, "waiting_for": waiting });
    vec![
        json!({ "kind": "tenant", "name": "acme", "cell": null, "member": null, "drain": drain(false, &["hel-1"]) }),
        json!({ "kind": "member", "name": "web <b>10.0.0.7:80</b>", "cell": "shared-1",
                "member": "01980000-0000-7000-8000-000000000003", "drain": drain(true, &[]) }),
        json!({ "kind": "edge", "name": "fra-1", "cell": null, "member": null, "drain": drain(false, &[]) }),
    ]
}

fn certificate() -> Value {
    json!({ "id": "01980000-0000-7000-8000-000000000004", "names": ["acme.test", "*.acme.test"], "issuer": "CN=Test",
            "not_before": now(-86_400), "not_after": now(86_400 * 5), "added_at": now(-60), "ordered_for": null })
}

fn order() -> Value {
    json!({ "host": "acme.test", "tenant": "acme", "state": "failed", "trouble": "wrong_name", "detail": "no <b>such</b> name",
            "failures": 2, "next_at": now(3_600), "certificate": null })
}

fn host() -> Value {
    json!({ "host": "shop.test", "tenant": "acme", "served": false, "proof": null, "contested": false, "looked_at": now(-5),
            "show": { "txt_name": "_berth.shop.test", "txt_value": "berth=1", "url": null, "page": null },
            "trouble": "there is no such record" })
}

fn log(cell: &str) -> Value {
    json!({ "cell": cell, "service": "web", "member": OPERATION, "line": "INFO listening on 127.0.0.1:41231 <&>" })
}

fn operation(state: &str) -> Value {
    let step = |name: &str, state: &str, began: i64, ended: Option<i64>| json!({ "name": name, "state": state, "attempts": 1, "started_at": now(began), "ended_at": ended.map(now), "fault": null });
    let running = state == "running";
    json!({
        "id": OPERATION, "kind": "move_tenant", "state": state, "tenant": "acme", "cell": "acme-1",
        "steps": [step("plan", "done", -9, Some(-9)), step("prepare", "done", -9, Some(-7)),
                  step("copy", if state == "succeeded" { "done" } else { "running" }, -7, None)],
        "progress": running.then(|| json!({
            "phase": "copy", "rows_done": 412_000, "rows_total": 1_000_000, "bytes_done": 65_000_000,
            "rows_per_s": 210_000.0, "remaining_s": 3.0, "lag_bytes": 18_000
        })),
        "past_return": false,
        "fault": (state == "stuck").then(|| json!({
            "code": "hook_failed", "detail": "the hook answered twice with another key", "hint": "look at the hook", "retryable": false
        })),
        "result": null, "asked_by": "founder", "created_at": now(-10), "updated_at": now(0),
        "ended_at": (state == "succeeded").then(|| now(0))
    })
}

fn export() -> Value {
    let mut export = operation("stuck");
    export["kind"] = json!("export_tenant");
    export["tenant"] = json!("blue");
    export
}

fn archive(tenant: &str) -> Value {
    json!({
        "id": OPERATION, "tenant": tenant, "contents": "left_behind", "made_at": now(-600), "rows": 1_234,
        "tables": [{ "table": "public.positions", "rows": 1_234, "bytes": 2 << 20, "before": null }], "files": []
    })
}

fn erasure() -> Value {
    json!({
        "operation": OPERATION, "tenant": OPERATION, "at": now(-60),
        "erased": [{ "place": "cell shared-1", "what": "rows of positions", "many": 20_000 }],
        "kept": [{ "what": "invoices", "why": "the law keeps them for ten years" }]
    })
}

fn servers() -> Vec<Value> {
    let machine = |disk_free: u64| {
        json!({
            "system": "Debian GNU/Linux 12 (bookworm)", "arch": "x86_64", "cpus": 8, "load_1m": 0.5,
            "memory_bytes": 16_u64 << 30, "memory_free_bytes": 6_u64 << 30, "disk_bytes": 100_u64 << 30, "disk_free_bytes": disk_free
        })
    };
    let server = |cell: &str, host: &str| {
        json!({
            "cell": cell, "state": "ready", "host": host, "port": 22, "user": "berth-ssh", "host_key": "SHA256:one",
            "machine": machine(60 << 30), "because": null
        })
    };
    let (mut full, mut silent) = (server("fra-2", "203.0.113.8"), server("fra-3", "203.0.113.9"));
    full["machine"] = machine(1 << 30);
    (silent["machine"], silent["because"]) = (json!(null), json!("its SSH does <b>not</b> answer"));
    silent["host_key"] = json!(null);
    vec![server("fra-1", "203.0.113.7"), full, silent]
}

fn moved() -> Value {
    json!({
        "id": OPERATION, "operation": OPERATION, "tenant": "acme", "from": "shared-1", "to": "acme-1", "kind": "upgrade",
        "state": "running", "phase": "copy", "generation": null, "rows": 1_000_000, "bytes": 158_000_000, "duration_s": null,
        "rows_per_s": null, "pause_ms": 12.4, "held_requests": 7, "rows_verified": 1_000_000, "started_at": now(-10), "ended_at": null
    })
}

fn cost_month(month: &str, over: bool) -> Value {
    json!({ "month": month, "over": over, "cost_cents": 8800, "revenue_cents": 1500, "margin_cents": -7300, "idle_cents": 8700,
            "tenants": 1, "unknown": 0 })
}

fn plan_move() -> Value {
    json!({
        "tenant": "acme", "from": "shared-1", "to": "acme-1", "rows": 1_000_000, "bytes": 158_000_000, "duration_s": null,
        "price_before_cents": null, "price_after_cents": null,
        "tables": [{ "table": "public.customers", "belongs": "root", "rows": 1, "bytes": 8_192 },
                   { "table": "public.gps_positions", "belongs": "column customer_id", "rows": 999_000, "bytes": 157_000_000 }],
        "blockers": []
    })
}

fn usage() -> Value {
    json!({
        "tenant": "acme", "plan": "hobby", "issues": ["answers take 300 ms on average, more than 200"],
        "says": "upgrade: plan crew in shared-1 (shared)", "judged_at": now(-60), "usage": [],
        "quotas": [
            { "quantity": "gps_points_per_day", "metric": "gps_points", "limit": 50_000, "used": 60_000, "left": 0,
              "resets_at": now(3_600), "signal": "over", "forecast": {
                  "days_known": 30, "per_day": 500.0, "error_percent": 4, "over_in_days": 20, "over_earliest_days": 17,
                  "over_latest_days": null } },
            { "quantity": "vehicles", "metric": "vehicles", "limit": 5, "used": null, "left": null, "resets_at": null,
              "signal": "calm", "forecast": null }
        ]
    })
}

fn approval() -> Value {
    let place =
        |plan: &str, price: u32| json!({ "plan": plan, "class": "shared", "cell": "shared-1", "price_cents": price });
    json!({
        "id": OPERATION, "tenant": "acme", "state": "open", "direction": "upgrade", "now": place("hobby", 1_500),
        "then": place("crew", 2_900), "because": ["gps_points_per_day stands at 60000, 120 % of <50000>"],
        "decision": { "tenant": "acme", "mode": null, "class": "shared", "provider": "local", "regions": [], "plan": "crew",
                      "cell": "shared-1", "monthly_cost_cents": null, "currency": "USD", "margin_cents": null,
                      "confidence": 0.97, "reasons": ["the least isolated class"], "refused": [], "flip": null },
        "unattended": false, "made_at": now(-600), "expires_at": now(600_000), "decided_at": null, "decided_by": null,
        "reason": null, "operation": null
    })
}

/// One that was agreed to and waits for a place.
fn agreed() -> Value {
    let mut agreed = approval();
    agreed["id"] = json!(AGREED);
    agreed["state"] = json!("approved");
    agreed["decided_by"] = json!("founder");
    agreed["decided_at"] = json!(now(-60));
    agreed["reason"] = json!("no shared cell <b>has room</b>");
    agreed
}

fn audit() -> Value {
    json!({
        "id": 7, "at": now(-10), "actor": "founder", "action": "tenant.move", "subject": "tenant acme",
        "detail": { "from": "shared-1", "to": "acme-1" }, "request_id": "req-0", "operation": OPERATION
    })
}

fn events() -> String {
    let event = |kind: &str, state: &str| {
        let json = json!({ "event": kind, "operation": operation(state) });
        format!("event: {kind}\ndata: {json}\n\n")
    };
    format!("{}: still here\n\n{}", event("changed", "running"), event("ended", "succeeded"))
}

fn release() -> Value {
    json!({ "number": 7, "services": { "web": format!("ghcr.io/shop/web@sha256:{}", "a1".repeat(32)) }, "current": false,
            "cells": ["shared-1"], "created_by": "ci", "created_at": now(0) })
}

fn roll() -> Value {
    json!({ "number": 3, "release": 7, "before": 6, "back": false, "whole": true, "state": "stopped", "asked_by": "ci",
            "reason": "cell `acme-1`: migrate ended with 3", "started_at": now(0), "cells": [
                { "cell": "shared-1", "wave": 1, "state": "done", "before": 6, "release": 7, "operation": OPERATION, "output": "applied <b>2</b>\n" },
                { "cell": "acme-1", "wave": 2, "state": "failed", "before": 6, "release": 6, "reason": "migrate ended with 3" }] })
}
