-- Releases: what the services of the stack run, by digest. Number 0 stands for none: what the stack file alone says.
CREATE TABLE releases (
    number     integer     PRIMARY KEY CHECK (number > 0),
    -- Service to artifact. The same set twice is the same release.
    services   jsonb       NOT NULL UNIQUE,
    created_by text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A release on its way over the cells, or back to an earlier one.
CREATE TABLE rolls (
    number       integer     PRIMARY KEY CHECK (number > 0),
    release      integer     NOT NULL CHECK (release >= 0),
    -- What ran before; where `berth release back` goes.
    before       integer     NOT NULL CHECK (before >= 0),
    back         boolean     NOT NULL,
    -- Every cell, and those made from now on: not only some.
    whole        boolean     NOT NULL,
    state        text        NOT NULL CHECK (state IN ('rolling', 'done', 'stopped')),
    reason       text,
    next_wave_at timestamptz,
    asked_by     text        NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    ended_at     timestamptz
);
-- One at a time.
CREATE UNIQUE INDEX rolls_open ON rolls ((true)) WHERE state = 'rolling';

CREATE TABLE roll_cells (
    roll         integer NOT NULL REFERENCES rolls ON DELETE CASCADE,
    cell_id      uuid    NOT NULL REFERENCES cells ON DELETE CASCADE,
    wave         integer NOT NULL CHECK (wave >= 0),
    state        text    NOT NULL CHECK (state IN ('waiting', 'rolling', 'done', 'failed')),
    before       integer NOT NULL,
    operation_id uuid,
    -- Why a cell of the present wave has not begun, or why it failed.
    reason       text,
    -- What `migrate` wrote.
    output       text,
    PRIMARY KEY (roll, cell_id)
);
-- What moves ask for: is this cell being changed?
CREATE UNIQUE INDEX roll_cells_rolling ON roll_cells (cell_id) WHERE state = 'rolling';

-- Accounts that may pull images.
CREATE TABLE registries (
    id                   uuid        PRIMARY KEY,
    host                 text        NOT NULL UNIQUE,
    username             text        NOT NULL,
    password_sealed      bytea       NOT NULL,
    password_key_version integer     NOT NULL,
    changed_by           text        NOT NULL,
    changed_at           timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE cells ADD COLUMN release integer NOT NULL DEFAULT 0;

-- While a release is rolled over a cell, the copies of two releases stand beside each other.
ALTER TABLE members
    ADD COLUMN release  integer NOT NULL DEFAULT 0,
    -- Started and not yet given requests; neither ended nor kept up by anybody but its release.
    ADD COLUMN arriving boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT members_cell_id_service_copy_key,
    ADD UNIQUE (cell_id, service, copy, release);

-- The oldest program that this schema still serves, by the newest migration that it knows. A migration that takes away
-- what the program before it uses raises it; one that only adds leaves it, so that two versions work side by side.
CREATE TABLE schema_floor (
    single    boolean PRIMARY KEY DEFAULT true CHECK (single),
    migration bigint  NOT NULL
);
-- The members' key above: older programs name the one that is gone.
INSERT INTO schema_floor (migration) VALUES (11);
