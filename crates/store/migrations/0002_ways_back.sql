-- After a move its old side is kept up to date for a while, so that the move can be undone; then its rows go.
CREATE TABLE ways_back (
    move_id      uuid        PRIMARY KEY REFERENCES moves,
    tenant_id    uuid        NOT NULL REFERENCES tenants,
    old_cell     uuid        NOT NULL REFERENCES cells, -- holds the rows that are kept up to date
    new_cell     uuid        NOT NULL REFERENCES cells, -- where the tenant is
    plan         jsonb       NOT NULL,                  -- the mover's: what belongs to the tenant
    state        text        NOT NULL CHECK (state IN ('open', 'undoing', 'undone', 'closing', 'closed')),
    until        timestamptz NOT NULL,
    bytes_behind bigint,
    trouble      text,                                  -- why it is not kept up to date at the moment
    reason       text                                   -- why it was closed
);
CREATE INDEX ways_back_tenant ON ways_back (tenant_id);
CREATE INDEX ways_back_unfinished ON ways_back (old_cell) WHERE state IN ('open', 'undoing', 'closing');
