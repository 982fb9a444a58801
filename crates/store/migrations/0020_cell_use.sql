-- What the members and the database of a cell used, by the hour: what advice, growth phases and charts of use are made
-- from. Sums over the looks of that hour; divided by their number they are the hour's mean.

CREATE TABLE cell_use (
    cell_id        uuid        NOT NULL REFERENCES cells ON DELETE CASCADE,
    starts_at      timestamptz NOT NULL,
    looks          bigint      NOT NULL CHECK (looks > 0),
    -- Of all members together, in thousandths of a processor.
    cpu_millis     bigint      NOT NULL,
    cpu_most       bigint      NOT NULL,
    memory_bytes   bigint      NOT NULL,
    memory_most    bigint      NOT NULL,
    -- What they are promised together.
    cpu_promised   bigint      NOT NULL,
    memory_promised bigint     NOT NULL,
    PRIMARY KEY (cell_id, starts_at)
);
CREATE INDEX cell_use_starts ON cell_use (starts_at);

-- The size of a cell's database, as it was last seen.
CREATE TABLE cell_sizes (
    cell_id        uuid        PRIMARY KEY REFERENCES cells ON DELETE CASCADE,
    database_bytes bigint      NOT NULL,
    seen_at        timestamptz NOT NULL DEFAULT now()
);
