-- Who lived where, on which plan, at which price, and when: what a month's costs and revenue are reckoned by. Kept by
-- triggers, so that no way of changing a placement or a plan can forget it.
--
-- No foreign keys: the commit point of a move writes here, and must not wait for whoever holds the tenant's row.
CREATE TABLE stays (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   uuid        NOT NULL,
    cell_id     uuid        NOT NULL,
    plan        text        NOT NULL,
    price_cents bigint      NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    until       timestamptz
);
CREATE UNIQUE INDEX stays_open ON stays (tenant_id) WHERE until IS NULL;
CREATE INDEX stays_until ON stays (until);

-- Ends what was and begins what is. The first statement waits for another change of the same tenant; what is true is
-- read after it, and where the other one began a stay meanwhile, that one is corrected.
CREATE FUNCTION stay_renew(who uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE stays SET until = greatest(since, now()) WHERE tenant_id = who AND until IS NULL;
    INSERT INTO stays (tenant_id, cell_id, plan, price_cents)
        SELECT t.id, p.owner, t.plan, l.price_cents
        FROM placements p JOIN tenants t ON t.id = p.tenant_id JOIN plans l ON l.name = t.plan
        WHERE p.tenant_id = who AND t.state NOT IN ('deleted', 'failed')
        ON CONFLICT (tenant_id) WHERE until IS NULL
        DO UPDATE SET cell_id = excluded.cell_id, plan = excluded.plan, price_cents = excluded.price_cents;
END $$;

CREATE FUNCTION stays_of_placement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM stay_renew(NEW.tenant_id); RETURN NULL; END $$;
CREATE FUNCTION stays_of_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM stay_renew(NEW.id); RETURN NULL; END $$;
CREATE FUNCTION stays_of_plan() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM stay_renew(id) FROM tenants WHERE plan = NEW.name AND state NOT IN ('deleted', 'failed'); RETURN NULL; END $$;

CREATE TRIGGER stays_placed AFTER INSERT ON placements FOR EACH ROW EXECUTE FUNCTION stays_of_placement();
CREATE TRIGGER stays_moved AFTER UPDATE OF owner ON placements FOR EACH ROW
    WHEN (OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION stays_of_placement();
CREATE TRIGGER stays_changed AFTER UPDATE OF plan, state ON tenants FOR EACH ROW
    WHEN (OLD.plan <> NEW.plan OR (OLD.state IN ('deleted', 'failed')) <> (NEW.state IN ('deleted', 'failed')))
    EXECUTE FUNCTION stays_of_tenant();
CREATE TRIGGER stays_priced AFTER UPDATE OF price_cents ON plans FOR EACH ROW
    WHEN (OLD.price_cents <> NEW.price_cents) EXECUTE FUNCTION stays_of_plan();

-- Where tenants lived before this is not known: they count as having been where they are.
INSERT INTO stays (tenant_id, cell_id, plan, price_cents, since)
    SELECT t.id, p.owner, t.plan, l.price_cents, greatest(t.created_at, c.created_at)
    FROM placements p JOIN tenants t ON t.id = p.tenant_id JOIN plans l ON l.name = t.plan JOIN cells c ON c.id = p.owner
    WHERE t.state NOT IN ('deleted', 'failed');

-- What a month cost at one provider. `computed` is written when the month is over, so that later prices change no past
-- month; `imported` is what somebody was billed, and goes before it.
CREATE TABLE invoices (
    month     text        NOT NULL CHECK (month ~ '^[0-9]{4}-[0-9]{2}$'),
    provider  text        NOT NULL,
    source    text        NOT NULL CHECK (source IN ('computed', 'imported')),
    -- A list of cell, part, currency, micros.
    lines     jsonb       NOT NULL,
    -- The exchange rates of that day: the currency's in millionths of a US dollar.
    rates     jsonb       NOT NULL,
    rates_of  text        NOT NULL,
    stored_by text        NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (month, provider, source)
);

-- Months whose computed invoices are complete.
CREATE TABLE months_closed (
    month     text        PRIMARY KEY,
    closed_at timestamptz NOT NULL DEFAULT now()
);
