//! Rows as the API shows them. Never decides anything.

use berth_config::Stack;
use berth_domain::{Cents, OperationId, OperationState, ServiceName, ServiceRole, Speaks, is_in_the_open};
use berth_store as store;
use berth_wire as wire;
use berth_workflow::{Operation, StepRecord, StepState};
use serde_json::Value;

pub(crate) fn tenant(t: store::Tenant, operation: Option<OperationId>) -> wire::Tenant {
    // What cannot be read was never written by this server, and edges are told what stands there.
    let allow = t.allow().unwrap_or_default();
    wire::Tenant {
        id: t.id,
        name: t.name,
        // While it is provisioned the key may still change.
        key: (t.state != berth_domain::TenantState::Provisioning).then_some(t.key),
        plan: t.plan,
        state: t.state,
        cell: Some(t.cell_name),
        mode: Some(t.cell_class.mode()),
        generation: t.generation,
        hosts: t.hosts,
        patterns: t.patterns,
        allow,
        own_limits: t.limits,
        operation,
        version: u64::try_from(t.version).unwrap_or(0),
        created_at: t.created_at,
        updated_at: t.changed_at,
    }
}

/// `speaks`: what its service says is spoken to members whose address does not say it.
pub(crate) fn member(m: store::Member, speaks: Speaks) -> wire::Member {
    let address = m.address.as_deref().filter(|_| m.service_role == ServiceRole::Web);
    wire::Member {
        in_the_open: address.is_some_and(|address| is_in_the_open(address, speaks)),
        id: m.id,
        service: m.service,
        service_role: m.service_role,
        role: m.role,
        state: m.state,
        address: m.address,
        seen_at: m.observed_at,
        cpu_percent: m.cpu_percent,
        memory_bytes: m.memory_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
    }
}

/// In what members of this service are spoken to.
pub(crate) fn speaks(stack: Option<&Stack>, service: &ServiceName) -> Speaks {
    stack.and_then(|stack| stack.services.get(service)).map_or_else(Speaks::default, |service| service.edge.speaks)
}

fn figure(it: store::CellFigure) -> wire::CellFigure {
    let store::Figure { what, unit, value, samples } = it.figure;
    wire::CellFigure { what, unit, value, samples, at: it.at }
}

pub(crate) fn cell(
    c: store::Cell,
    members: Vec<store::Member>,
    figures: Vec<store::CellFigure>,
    operation: Option<OperationId>,
    price_cents: Option<Cents>,
    stack: Option<&Stack>,
) -> Result<wire::Cell, crate::ControlError> {
    Ok(wire::Cell {
        id: c.id,
        name: c.name,
        class: c.class,
        state: c.state,
        provider: berth_domain::ProviderName::new(c.provider)?,
        region: c.region,
        tenants: u32::try_from(c.tenants).unwrap_or(0),
        max_tenants: u32::try_from(c.max_tenants).unwrap_or(0),
        price_cents,
        database_bytes: None,
        operation,
        members: members
            .into_iter()
            .map(|m| {
                let speaks = speaks(stack, &m.service);
                member(m, speaks)
            })
            .collect(),
        measured: figures.into_iter().map(figure).collect(),
        claimed: Vec::new(),
        created_at: c.created_at,
    })
}

pub(crate) fn operation(o: Operation, steps: Vec<StepRecord>) -> wire::Operation {
    let about = o.subject.as_deref().and_then(|subject| subject.split_once('/'));
    let named = |what: &str| about.filter(|(kind, _)| *kind == what).map(|(_, name)| name);
    wire::Operation {
        id: o.id,
        kind: kind(&o.workflow).to_owned(),
        state: o.state,
        tenant: named("tenant").and_then(|name| name.parse().ok()),
        cell: named("cell").and_then(|name| name.parse().ok()),
        steps: steps.into_iter().map(step).collect(),
        progress: o.progress.map(progress),
        past_return: o.no_return.is_some(),
        fault: o.error.map(|error| wire::Fault {
            code: error.kind.to_string(),
            detail: error.message,
            hint: error.hint,
            retryable: error.retryable,
        }),
        result: o.result.and_then(|result| serde_json::from_value(result).ok()),
        asked_by: o.input.get("asked_by").and_then(Value::as_str).map(str::to_owned),
        created_at: o.created_at,
        updated_at: o.updated_at,
        ended_at: o.finished_at,
    }
}

/// `move_tenant_v1` is of the kind `move_tenant`.
fn kind(workflow: &str) -> &str {
    match workflow.rsplit_once("_v") {
        Some((kind, version)) if version.bytes().all(|b| b.is_ascii_digit()) => kind,
        _ => workflow,
    }
}

/// A workflow's figures have the names of the API's fields; what it does not measure is absent.
fn progress(p: berth_workflow::Progress) -> wire::Progress {
    let mut figures = match p.figures {
        Value::Object(figures) => figures,
        _ => serde_json::Map::new(),
    };
    figures.entry("phase").or_insert(Value::String(p.message.clone()));
    serde_json::from_value(Value::Object(figures))
        .unwrap_or_else(|_| wire::Progress { phase: p.message, ..wire::Progress::default() })
}

fn step(s: StepRecord) -> wire::StepView {
    let over = !matches!(s.state, StepState::Started | StepState::Undoing);
    wire::StepView {
        name: s.name,
        state: match s.state {
            StepState::Started => wire::StepState::Running,
            StepState::Done => wire::StepState::Done,
            StepState::Failed => wire::StepState::Failed,
            StepState::Undoing => wire::StepState::Undoing,
            StepState::Undone => wire::StepState::Undone,
        },
        // Failures are what the journal counts; the try at hand, or the one that went well, is one more.
        attempts: s.attempts + 1,
        started_at: s.started_at,
        ended_at: over.then_some(s.updated_at),
        fault: s.error.map(|error| error.message),
    }
}

pub(crate) fn key(k: store::Key) -> wire::Key {
    wire::Key {
        id: k.id,
        name: k.name,
        scope: k.scope.to_string(),
        prefix: k.prefix,
        created_at: k.created_at,
        last_used_at: k.last_used_at,
        revoked_at: k.revoked_at,
    }
}

pub(crate) fn a_move(m: store::Move, state: OperationState) -> wire::Move {
    let f = m.figures;
    let whole = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
    let duration_s = m.ended_at.map(|end| end.duration_since(m.started_at).as_secs_f64());
    let rows_per_s = f.rows.zip(f.phases.iter().find(|p| p.phase == "copy")).and_then(|(rows, copy)| {
        let seconds = copy.ended_at?.duration_since(copy.started_at).as_secs_f64();
        (seconds > 0.0).then(|| rows as f64 / seconds)
    });
    wire::Move {
        id: m.id,
        operation: OperationId::new(m.id.uuid()),
        tenant: m.tenant_name,
        from: m.source,
        to: m.target,
        kind: m.kind,
        state,
        phase: f.phases.last().filter(|p| p.ended_at.is_none()).map(|p| p.phase.clone()),
        generation: None,
        rows: whole(f.rows),
        bytes: whole(f.bytes),
        duration_s,
        rows_per_s,
        pause_ms: f.pause_ms,
        held_requests: whole(f.held_requests),
        rows_verified: whole(f.rows_verified),
        started_at: m.started_at,
        ended_at: m.ended_at,
        way_back: m.way_back.map(|way| wire::WayBack {
            state: way.state,
            until: way.until,
            bytes_behind: whole(way.bytes_behind),
            trouble: way.trouble,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn an_operation_is_of_a_kind_whatever_its_version() {
        assert_eq!(kind("move_tenant_v12"), "move_tenant");
        assert_eq!(kind("move_vehicle"), "move_vehicle");
        assert_eq!(kind("plain"), "plain");
    }
}
