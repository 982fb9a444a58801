-- berth: expand
-- Which version each `berth serve` and each edge's process is. One of a version that does not say so has no row.
CREATE TABLE processes (
    instance  uuid        PRIMARY KEY,
    role      text        NOT NULL CHECK (role IN ('serve', 'edge')),
    -- An edge's name; of a server, its machine's.
    name      text        NOT NULL,
    version   text        NOT NULL,
    since     timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now()
);

-- The newest program that has worked on this database: one that is too far from it is refused.
ALTER TABLE schema_floor ADD COLUMN program text;
