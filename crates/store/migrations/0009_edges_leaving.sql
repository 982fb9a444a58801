-- Processes of an edge that another one of its name has followed: they serve the connections they have, and moves wait for
-- them too until they have gone.
CREATE TABLE edges_leaving (
    instance   uuid        PRIMARY KEY,
    name       text        NOT NULL,
    -- Everything up to here is in force there.
    acked      bigint      NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now()
);
