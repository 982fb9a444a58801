-- What tenants use, what that says about where they belong, and who agreed to what followed.

ALTER TABLE api_keys DROP CONSTRAINT api_keys_scope_check;
ALTER TABLE api_keys ADD CHECK (scope IN ('admin', 'read', 'edge', 'usage', 'tenant'));

-- A metric is counted in one unit for ever: amounts in two would add up to nothing.
CREATE TABLE usage_metrics (
    metric text PRIMARY KEY,
    unit   text NOT NULL
);

-- Which events were counted. Kept longer than events are taken, so that none is counted twice.
CREATE TABLE usage_events (
    tenant_id  uuid        NOT NULL REFERENCES tenants,
    key        text        NOT NULL,
    metric     text        NOT NULL,
    amount     bigint      NOT NULL CHECK (amount >= 0),
    at         timestamptz NOT NULL,
    counted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX usage_events_counted ON usage_events (counted_at);

-- What they come to. Which figure means something depends on what is measured: of a flow the total, of a level the latest.
CREATE TABLE usage (
    tenant_id  uuid        NOT NULL REFERENCES tenants,
    metric     text        NOT NULL,
    period     text        NOT NULL CHECK (period IN ('hour', 'day', 'month')),
    starts_at  timestamptz NOT NULL,
    total      bigint      NOT NULL,
    greatest   bigint      NOT NULL,
    latest     bigint      NOT NULL,
    latest_at  timestamptz NOT NULL,
    events     bigint      NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, metric, period, starts_at)
);
CREATE INDEX usage_starts ON usage (starts_at, period);

-- One life of one edge process. Its row's lock puts its reports into an order.
CREATE TABLE edge_epochs (
    instance uuid        PRIMARY KEY,
    edge     text        NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT now(),
    -- Its counters are forgotten, so what it still says counts for nothing.
    closed   boolean     NOT NULL DEFAULT false
);

-- The edge's own counters as it last said them. They begin at 0 with each life and only rise.
CREATE TABLE edge_meters (
    instance         uuid   NOT NULL REFERENCES edge_epochs,
    tenant_id        uuid   NOT NULL,
    requests         bigint NOT NULL,
    failed_requests  bigint NOT NULL,
    limited_requests bigint NOT NULL,
    received_bytes   bigint NOT NULL,
    sent_bytes       bigint NOT NULL,
    request_time_us  bigint NOT NULL,
    PRIMARY KEY (instance, tenant_id)
);

-- Classes of requests that edges refuse until a moment, because the tenant has spent a quota.
CREATE TABLE usage_spent (
    tenant_id uuid        NOT NULL REFERENCES tenants,
    quantity  text        NOT NULL,
    class     text        NOT NULL,
    until     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, quantity)
);

-- What was last thought of a tenant: its signals, which the next judgement goes on from, and what is shown.
CREATE TABLE usage_judgements (
    tenant_id uuid        PRIMARY KEY REFERENCES tenants,
    judged_at timestamptz NOT NULL DEFAULT now(),
    signals   jsonb       NOT NULL,
    judgement jsonb       NOT NULL
);

CREATE TABLE approvals (
    id         uuid             PRIMARY KEY,
    tenant_id  uuid             NOT NULL REFERENCES tenants,
    state      text             NOT NULL CHECK (state IN ('open', 'approved', 'carried_out', 'rejected', 'expired', 'superseded', 'failed')),
    direction  text             NOT NULL,
    -- Where the tenant was and where it would go: what a newer proposal is compared with.
    place_now  jsonb            NOT NULL,
    place_then jsonb            NOT NULL,
    decision   jsonb            NOT NULL,
    because    jsonb            NOT NULL,
    confidence double precision NOT NULL,
    -- Nobody was asked.
    unattended boolean          NOT NULL,
    made_at    timestamptz      NOT NULL DEFAULT now(),
    expires_at timestamptz      NOT NULL,
    decided_at timestamptz,
    decided_by text,
    reason     text,
    operation  uuid
);
CREATE UNIQUE INDEX approvals_one ON approvals (tenant_id) WHERE state IN ('open', 'approved');
CREATE INDEX approvals_made ON approvals (made_at);
CREATE INDEX approvals_tenant ON approvals (tenant_id, made_at);

-- How many copies of a scaled service a cell should run now.
CREATE TABLE cell_copies (
    cell_id    uuid        NOT NULL REFERENCES cells ON DELETE CASCADE,
    service    text        NOT NULL,
    copies     integer     NOT NULL CHECK (copies > 0),
    because    text        NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cell_id, service)
);

-- What a member used when it was last looked at; null: its provider does not tell.
ALTER TABLE members ADD COLUMN cpu_percent double precision, ADD COLUMN memory_bytes bigint;
