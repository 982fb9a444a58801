//! How the words of `domain` look in OpenAPI. `domain` itself knows no schema: it is pure.

use berth_domain::{
    ApprovalState, CellClass, CellState, HostProof, MemberRole, MemberState, Mode, MovePhase, OperationState,
    OrderState, OrderTrouble, RollCellState, RollState, ServiceRole, TenantState, UsagePeriod, WayBackState,
};
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{KnownFormat, Schema, schema::Array};

fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String))
}

/// The same, or `null`.
fn nullable(mut object: Object) -> Object {
    if let SchemaType::Type(one) = &object.schema_type {
        object.schema_type = SchemaType::from_iter([one.clone(), Type::Null]);
    }
    if let Some(values) = &mut object.enum_values {
        values.push(serde_json::Value::Null);
    }
    object
}

pub(crate) fn name() -> Object {
    string().pattern(Some("^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")).build()
}

pub(crate) fn name_or_none() -> Object {
    nullable(name())
}

pub(crate) fn key() -> Object {
    string().min_length(Some(1)).max_length(Some(200)).build()
}

pub(crate) fn key_or_none() -> Object {
    nullable(key())
}

pub(crate) fn hosts() -> Array {
    let label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
    let host = string().pattern(Some(format!("^{label}(\\.{label})*$"))).max_length(Some(253)).build();
    ArrayBuilder::new().items(host).build()
}

pub(crate) fn networks() -> Array {
    ArrayBuilder::new().items(string().max_length(Some(49)).build()).build()
}

pub(crate) fn patterns() -> Array {
    ArrayBuilder::new().items(tenant_host()).build()
}

/// Limits that edges keep.
pub(crate) fn edge_limits() -> Object {
    let classes = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Object))
        .additional_properties(Some(Schema::from(counter())));
    ObjectBuilder::new().property("requests_per_minute", classes).property("body_bytes", counter()).build()
}

/// A host, `*.example.com`, or either with a path.
pub(crate) fn tenant_host() -> Object {
    let label = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?";
    let pattern = format!("^(\\*\\.)?{label}(\\.{label})*(/[A-Za-z0-9._~-]+)*$");
    string().pattern(Some(pattern)).max_length(Some(512)).build()
}

pub(crate) fn id() -> Object {
    string().format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid))).build()
}

pub(crate) fn id_or_none() -> Object {
    nullable(id())
}

pub(crate) fn time() -> Object {
    string().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).build()
}

pub(crate) fn time_or_none() -> Object {
    nullable(time())
}

pub(crate) fn counter() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Integer))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(0))
        .build()
}

pub(crate) fn counter_or_none() -> Object {
    nullable(counter())
}

pub(crate) fn cents() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Integer))
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .build()
}

pub(crate) fn cents_or_none() -> Object {
    nullable(cents())
}

macro_rules! states {
    ($($function:ident, $or_none:ident: $state:ty;)+) => {$(
        #[allow(dead_code)]
        pub(crate) fn $function() -> Object {
            string().enum_values(Some(<$state>::ALL.iter().map(|state| state.as_str()))).build()
        }
        #[allow(dead_code)]
        pub(crate) fn $or_none() -> Object {
            nullable($function())
        }
    )+};
}

states! {
    tenant_state, tenant_state_or_none: TenantState;
    cell_state, cell_state_or_none: CellState;
    cell_class, cell_class_or_none: CellClass;
    mode, mode_or_none: Mode;
    service_role, service_role_or_none: ServiceRole;
    member_role, member_role_or_none: MemberRole;
    member_state, member_state_or_none: MemberState;
    move_phase, move_phase_or_none: MovePhase;
    operation_state, operation_state_or_none: OperationState;
    way_back_state, way_back_state_or_none: WayBackState;
    roll_state, roll_state_or_none: RollState;
    roll_cell_state, roll_cell_state_or_none: RollCellState;
    usage_period, usage_period_or_none: UsagePeriod;
    approval_state, approval_state_or_none: ApprovalState;
    host_proof, host_proof_or_none: HostProof;
    order_state, order_state_or_none: OrderState;
    order_trouble, order_trouble_or_none: OrderTrouble;
}
