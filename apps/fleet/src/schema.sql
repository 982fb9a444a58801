-- The fleet application's tables, the same in a shared and in a dedicated cell.
--
-- Run as the schema's owner, as often as one likes: whatever stands already is left alone, so a second run takes
-- no lock that a running application would feel. Three rules hold for each table:
--   * it carries `customer_id`, also where a foreign key would lead there, so that one tenant's rows can be found,
--     fenced and moved without looking anything up (`customers` is the root: its own id is the tenant's key);
--   * every foreign key between tenant tables includes `customer_id`, so that no row can point at a neighbour's;
--   * row security is forced: without `app.current_customer_id` a session sees nothing, the owner included.

create table if not exists customers (
    id                   uuid primary key default gen_random_uuid(),
    slug                 text not null unique,
    name                 text not null,
    email                text not null,
    status               text not null default 'active' check (status in ('active', 'suspended', 'cancelled')),
    plan                 text not null default 'hobby',
    stripe_customer_id   text,
    settings             jsonb not null default '{}',
    metadata             jsonb not null default '{}',
    onboarding_completed boolean not null default false,
    created_at           timestamptz not null default now()
);
create unique index if not exists customers_email_key on customers (lower(email));

create table if not exists customer_users (
    id              uuid primary key default gen_random_uuid(),
    customer_id     uuid not null references customers (id) on delete cascade,
    email           text not null,
    hashed_password text,
    role            text not null default 'user' check (role in ('user', 'admin', 'owner')),
    active          boolean not null default true,
    created_at      timestamptz not null default now()
);
create unique index if not exists customer_users_email_key on customer_users (customer_id, lower(email));

-- A key is shown once and kept as its SHA-256 only.
create table if not exists api_keys (
    id           uuid primary key default gen_random_uuid(),
    customer_id  uuid not null references customers (id) on delete cascade,
    name         text not null,
    key_hash     bytea not null unique check (octet_length(key_hash) = 32),
    key_prefix   text not null,
    environment  text not null default 'production' check (environment in ('production', 'development')),
    permissions  text[] not null default '{}',
    last_used_at timestamptz,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    active       boolean not null default true,
    created_at   timestamptz not null default now()
);
create index if not exists api_keys_customer_idx on api_keys (customer_id);

create table if not exists drivers (
    id             uuid primary key default gen_random_uuid(),
    customer_id    uuid not null references customers (id) on delete cascade,
    name           text not null,
    licence_number text,
    status         text not null default 'active' check (status in ('active', 'inactive', 'suspended')),
    created_at     timestamptz not null default now(),
    unique (customer_id, id)
);

create table if not exists vehicles (
    id                 uuid primary key default gen_random_uuid(),
    customer_id        uuid not null references customers (id) on delete cascade,
    name               text not null,
    vehicle_identifier text not null,
    vehicle_type       text not null default 'car'
                       check (vehicle_type in ('car', 'truck', 'van', 'motorcycle', 'other')),
    status             text not null default 'active' check (status in ('active', 'maintenance', 'inactive')),
    driver_id          uuid,
    metadata           jsonb not null default '{}',
    created_at         timestamptz not null default now(),
    unique (customer_id, id),
    unique (customer_id, vehicle_identifier),
    foreign key (customer_id, driver_id) references drivers (customer_id, id) on delete set null (driver_id)
);

-- `id` is the server's, `event_id` the client's. The latter is deliberately neither unique nor met by a conflict
-- clause: a position that was stored twice must be there twice, for whoever looks, instead of being tidied away.
create table if not exists gps_positions (
    id          uuid primary key default gen_random_uuid(),
    customer_id uuid not null references customers (id) on delete cascade,
    vehicle_id  uuid not null,
    event_id    uuid,
    time        timestamptz not null,
    latitude    numeric(9, 6) not null check (latitude between -90 and 90),
    longitude   numeric(9, 6) not null check (longitude between -180 and 180),
    speed       double precision,
    heading     double precision,
    accuracy    double precision,
    altitude    double precision,
    foreign key (customer_id, vehicle_id) references vehicles (customer_id, id) on delete cascade
);
create index if not exists gps_positions_vehicle_time_idx on gps_positions (customer_id, vehicle_id, time desc);
create index if not exists gps_positions_time_idx on gps_positions (customer_id, time);

create table if not exists geofences (
    id             uuid primary key default gen_random_uuid(),
    customer_id    uuid not null references customers (id) on delete cascade,
    name           text not null,
    kind           text not null check (kind in ('circle', 'polygon')),
    center_lat     numeric(9, 6) check (center_lat between -90 and 90),
    center_lng     numeric(9, 6) check (center_lng between -180 and 180),
    radius_meters  double precision check (radius_meters > 0),
    geometry       jsonb,
    alert_on_enter boolean not null default true,
    alert_on_exit  boolean not null default true,
    active         boolean not null default true,
    created_at     timestamptz not null default now(),
    check (case kind when 'circle' then num_nulls(center_lat, center_lng, radius_meters) = 0
                     else geometry is not null end)
);
create index if not exists geofences_customer_idx on geofences (customer_id);

create table if not exists routes (
    id               uuid primary key default gen_random_uuid(),
    customer_id      uuid not null references customers (id) on delete cascade,
    vehicle_id       uuid not null,
    path             jsonb not null,
    distance_meters  double precision,
    duration_seconds integer,
    started_at       timestamptz not null,
    ended_at         timestamptz,
    foreign key (customer_id, vehicle_id) references vehicles (customer_id, id) on delete cascade
);
create index if not exists routes_vehicle_started_idx on routes (customer_id, vehicle_id, started_at desc);

create table if not exists usage_metrics (
    id           uuid primary key default gen_random_uuid(),
    customer_id  uuid not null references customers (id) on delete cascade,
    metric_type  text not null,
    metric_value numeric not null,
    unit         text not null,
    timestamp    timestamptz not null
);
create index if not exists usage_metrics_type_time_idx on usage_metrics (customer_id, metric_type, timestamp);

create table if not exists sync_updates (
    id             uuid primary key default gen_random_uuid(),
    customer_id    uuid not null references customers (id) on delete cascade,
    document_id    text not null,
    update_data    bytea not null,
    update_version integer not null,
    metadata       jsonb not null default '{}',
    created_at     timestamptz not null default now()
);
create index if not exists sync_updates_document_idx on sync_updates (customer_id, document_id, update_version);

-- `nullif`, because a setting that was once set in a session comes back as '' and not as null.
do $$
declare
    one record;
begin
    for one in
        select t.name, case t.name when 'customers' then 'id' else 'customer_id' end as key
          from unnest(array['customers', 'customer_users', 'api_keys', 'drivers', 'vehicles', 'gps_positions',
                            'geofences', 'routes', 'usage_metrics', 'sync_updates']) as t (name)
         where not exists (select from pg_policy p
                            where p.polrelid = to_regclass(t.name) and p.polname = 'tenant_isolation')
    loop
        execute format('alter table %I enable row level security', one.name);
        execute format('alter table %I force row level security', one.name);
        execute format(
            'create policy tenant_isolation on %I'
            ' using (%2$I = nullif(current_setting(''app.current_customer_id'', true), '''')::uuid)'
            ' with check (%2$I = nullif(current_setting(''app.current_customer_id'', true), '''')::uuid)',
            one.name, one.key);
    end loop;
end
$$;

-- What the platform asks of a tenant's life, callable by the owner of the schema only. The setting comes first,
-- in a statement of its own: the owner is under row security like everybody else.
create or replace function customer_create(tenant uuid, tenant_slug text, tenant_plan text) returns uuid
language plpgsql as $$
begin
    perform set_config('app.current_customer_id', tenant::text, true);
    insert into customers (id, slug, name, email, status, plan)
    values (tenant, tenant_slug, tenant_slug, tenant_slug || '@tenants.invalid', 'active', tenant_plan)
    on conflict (id) do nothing;
    return tenant;
end
$$;

create or replace function customer_set_status(tenant uuid, new_status text) returns boolean
language plpgsql as $$
begin
    perform set_config('app.current_customer_id', tenant::text, true);
    update customers set status = new_status where id = tenant;
    return found;
end
$$;

create or replace function customer_set_plan(tenant uuid, new_plan text) returns boolean
language plpgsql as $$
begin
    perform set_config('app.current_customer_id', tenant::text, true);
    update customers set plan = new_plan where id = tenant;
    return found;
end
$$;

create or replace function customer_delete(tenant uuid) returns boolean
language plpgsql as $$
begin
    perform set_config('app.current_customer_id', tenant::text, true);
    delete from customers where id = tenant;
    return found;
end
$$;

revoke all on function customer_create(uuid, text, text), customer_set_status(uuid, text),
                       customer_set_plan(uuid, text), customer_delete(uuid) from public;
