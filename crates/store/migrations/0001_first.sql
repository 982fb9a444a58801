-- The control plane's facts. One fact drives all others: tenant T is in cell C under generation G (`placements`).
--
-- States are text with a CHECK, so that they read well in psql; a test compares every CHECK with its enum in
-- `berth-domain`. Times are the server's: machines' clocks are not compared.

-- What `berth apply` was given, whole, and never changed afterwards.
CREATE TABLE stack_revisions (
    revision   bigint      PRIMARY KEY CHECK (revision > 0),
    stack      text        NOT NULL,
    -- The file as the person wrote it, and the same parsed: comments are worth keeping, parsing again is not.
    source     text        NOT NULL,
    document   jsonb       NOT NULL,
    applied_by text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE plans (
    name           text    PRIMARY KEY,
    price_cents    bigint  NOT NULL CHECK (price_cents >= 0),
    class          text    NOT NULL CHECK (class IN ('shared', 'pool', 'dedicated')),
    limits         jsonb   NOT NULL,
    stack_revision bigint  NOT NULL REFERENCES stack_revisions,
    -- A plan that left the stack file keeps its tenants and takes no new ones.
    retired        boolean NOT NULL DEFAULT false
);

CREATE TABLE cells (
    id                 uuid        PRIMARY KEY,
    name               text        NOT NULL,
    class              text        NOT NULL CHECK (class IN ('shared', 'pool', 'dedicated')),
    provider           text        NOT NULL,
    region             text,
    state              text        NOT NULL CHECK (state IN ('creating', 'ready', 'draining', 'removing', 'removed', 'failed')),
    max_tenants        integer     NOT NULL CHECK (max_tenants > 0),
    shape              jsonb       NOT NULL,
    schema_fingerprint text,
    stack_revision     bigint      NOT NULL REFERENCES stack_revisions,
    -- Where the cell's database listens and the passwords of its roles: sealed, see `seal.rs`.
    access_sealed      bytea,
    access_key_version integer,
    created_at         timestamptz NOT NULL DEFAULT now(),
    changed_at         timestamptz NOT NULL DEFAULT now(),
    CHECK ((access_sealed IS NULL) = (access_key_version IS NULL))
);
-- A cell that is gone gives its name back.
CREATE UNIQUE INDEX cells_name ON cells (name) WHERE state NOT IN ('removed', 'failed');

CREATE TABLE members (
    id           uuid        PRIMARY KEY,
    cell_id      uuid        NOT NULL REFERENCES cells ON DELETE CASCADE,
    service      text        NOT NULL,
    copy         integer     NOT NULL CHECK (copy >= 0),
    service_role text        NOT NULL CHECK (service_role IN ('web', 'worker', 'cron')),
    role         text        NOT NULL CHECK (role IN ('active', 'standby', 'replica')),
    -- Intent. A member that is not wanted is ended and then deleted here.
    wanted       boolean     NOT NULL DEFAULT true,
    -- Observed.
    state        text        NOT NULL DEFAULT 'unknown' CHECK (state IN ('unknown', 'starting', 'healthy', 'unhealthy', 'stopped')),
    address      text,
    detail       text,
    restarts     bigint      NOT NULL DEFAULT 0,
    observed_at  timestamptz,
    UNIQUE (cell_id, service, copy)
);

CREATE TABLE tenants (
    id          uuid        PRIMARY KEY,
    name        text        NOT NULL,
    -- The tenant's key in the application's own root table.
    key         text        NOT NULL,
    plan        text        NOT NULL REFERENCES plans,
    state       text        NOT NULL CHECK (state IN ('provisioning', 'active', 'moving', 'suspended', 'deleting', 'deleted', 'failed')),
    settings    jsonb       NOT NULL DEFAULT '{}',
    -- Raised by every change: what an ETag shows and a writer that read before must name.
    version     bigint      NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX tenants_name ON tenants (name) WHERE state NOT IN ('deleted', 'failed');
CREATE UNIQUE INDEX tenants_key ON tenants (key) WHERE state NOT IN ('deleted', 'failed');

CREATE TABLE hosts (
    host      text PRIMARY KEY,
    tenant_id uuid NOT NULL REFERENCES tenants
);
CREATE INDEX hosts_tenant ON hosts (tenant_id);

-- The control row of the mover's protocol: changed only through `Control::after`, inside the transaction that stores it.
CREATE TABLE placements (
    tenant_id    uuid        PRIMARY KEY REFERENCES tenants,
    owner        uuid        NOT NULL REFERENCES cells,
    generation   bigint      NOT NULL CHECK (generation >= 0),
    token        bigint      NOT NULL CHECK (token >= 0),
    phase        text        NOT NULL CHECK (phase IN ('idle', 'running', 'committed', 'aborting')),
    target       uuid        REFERENCES cells,
    holding      boolean     NOT NULL,
    -- The token under which edges were told to hold: names the attempt in their reports.
    hold_token   bigint      NOT NULL DEFAULT 0,
    hold_policy  text        NOT NULL DEFAULT 'unsafe' CHECK (hold_policy IN ('unsafe', 'all')),
    drain_ms     integer     NOT NULL DEFAULT 50,
    park_ms      integer     NOT NULL DEFAULT 2000,
    since        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX placements_owner ON placements (owner);
CREATE INDEX placements_target ON placements (target) WHERE target IS NOT NULL;

-- One row. Its row lock is the lock under which revisions are taken, see `routes.rs`.
CREATE TABLE route_head (
    single   boolean PRIMARY KEY DEFAULT true CHECK (single),
    revision bigint  NOT NULL
);
INSERT INTO route_head (revision) VALUES (0);

-- When what edges see of a tenant changed last. Rows are touched only by who holds `route_head`.
CREATE TABLE routes (
    tenant_id uuid   PRIMARY KEY REFERENCES tenants,
    revision  bigint NOT NULL
);
CREATE INDEX routes_revision ON routes (revision);

-- Long operations, as `berth-workflow` describes them: its rules decide, these tables only remember.
CREATE TABLE operations (
    id          uuid        PRIMARY KEY,
    -- Rises with each row: "the oldest first" and pages do not rest on clocks.
    seq         bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
    workflow    text        NOT NULL,
    subject     text,
    input       jsonb       NOT NULL,
    state       text        NOT NULL CHECK (state IN ('queued', 'running', 'undoing', 'succeeded', 'failed', 'stuck', 'abandoned')),
    undoing     boolean     NOT NULL,
    no_return   integer,
    abandon     boolean     NOT NULL,
    attempts    integer     NOT NULL,
    retry_at    timestamptz,
    error       jsonb,
    progress    jsonb,
    result      jsonb,
    -- Fencing token of the lease: who holds a lower one is refused.
    epoch       bigint      NOT NULL,
    worker      text,
    lease_until timestamptz,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    finished_at timestamptz,
    CHECK ((worker IS NULL) = (lease_until IS NULL))
);
-- What a worker looks for: everything that is not over.
CREATE INDEX operations_open ON operations (seq) WHERE state IN ('queued', 'running', 'undoing');
CREATE INDEX operations_subject ON operations (subject, seq);

CREATE TABLE operation_steps (
    operation_id uuid        NOT NULL REFERENCES operations ON DELETE CASCADE,
    seq          integer     NOT NULL,
    name         text        NOT NULL,
    input        jsonb       NOT NULL,
    state        text        NOT NULL CHECK (state IN ('started', 'done', 'failed', 'undoing', 'undone')),
    output       jsonb,
    error        jsonb,
    attempts     integer     NOT NULL,
    started_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    PRIMARY KEY (operation_id, seq)
);

CREATE TABLE edges (
    name       text        PRIMARY KEY,
    instance   uuid        NOT NULL,
    -- Everything up to here is in force at the edge and on its disk.
    acked      bigint      NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE hold_reports (
    edge             text             NOT NULL,
    instance         uuid             NOT NULL,
    tenant_id        uuid             NOT NULL,
    token            bigint           NOT NULL,
    outcome          text             NOT NULL CHECK (outcome IN ('in_force', 'refused', 'ended')),
    in_flight        integer,
    pause_ms         double precision,
    held_requests    integer,
    expired_requests integer,
    at               timestamptz      NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, token, edge, instance, outcome)
);

CREATE TABLE api_keys (
    id           uuid        PRIMARY KEY,
    name         text        NOT NULL,
    -- SHA-256 of the key. The key itself is random and long: nothing is won by a slow hash.
    digest       bytea       NOT NULL UNIQUE CHECK (length(digest) = 32),
    -- The first characters, to recognise it by.
    prefix       text        NOT NULL,
    scope        text        NOT NULL CHECK (scope IN ('admin', 'read', 'edge', 'tenant')),
    tenant_id    uuid        REFERENCES tenants,
    created_by   text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    revoked_at   timestamptz,
    CHECK ((scope = 'tenant') = (tenant_id IS NOT NULL))
);

CREATE TABLE idempotency_keys (
    caller       text        NOT NULL,
    key          text        NOT NULL,
    request_hash bytea       NOT NULL,
    -- Null while the first request is under way.
    status       integer,
    body         jsonb,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);

CREATE TABLE audit (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    caller     text        NOT NULL,
    request_id text,
    action     text        NOT NULL,
    target     text        NOT NULL,
    before     jsonb,
    after      jsonb
);
CREATE INDEX audit_target ON audit (target, id);

-- Figures of each move, for people and the verdict. The protocol never reads them.
CREATE TABLE moves (
    id            uuid             PRIMARY KEY,
    tenant_id     uuid             NOT NULL REFERENCES tenants,
    kind          text             NOT NULL,
    source        uuid             NOT NULL REFERENCES cells,
    target        uuid             NOT NULL REFERENCES cells,
    rows          bigint,
    bytes         bigint,
    rows_verified bigint,
    pause_ms      double precision,
    held_requests bigint,
    attempts      integer          NOT NULL DEFAULT 0,
    outcome       text             CHECK (outcome IN ('moved', 'given_up')),
    reason        text,
    phases        jsonb            NOT NULL DEFAULT '[]',
    started_at    timestamptz      NOT NULL DEFAULT now(),
    ended_at      timestamptz
);
CREATE INDEX moves_tenant ON moves (tenant_id, started_at);

-- Who does the work that exactly one serve should do at a time. The token is raised by every new holder.
CREATE TABLE leases (
    name   text        PRIMARY KEY,
    holder uuid        NOT NULL,
    token  bigint      NOT NULL,
    until  timestamptz NOT NULL
);

-- What was seen of the world that this database does not know: it was restored from an older copy. As long as a
-- row stands here nothing is changed, until `berth recover` has raised every counter above what was seen.
CREATE TABLE world_ahead (
    -- `edge NAME`, or `cell NAME tenant KEY`.
    source     text        PRIMARY KEY,
    revision   bigint      NOT NULL DEFAULT 0,
    -- Of a tenant's fence in a cell, where that is what was seen.
    tenant_id  uuid,
    cell_id    uuid,
    generation bigint      NOT NULL DEFAULT 0,
    token      bigint      NOT NULL DEFAULT 0,
    open       boolean     NOT NULL DEFAULT false,
    seen_at    timestamptz NOT NULL DEFAULT now()
);
