-- What edges send no new requests to, or, for an edge, what it takes no new connections on. Until it is taken back.
CREATE TABLE drains (
    kind     text        NOT NULL CHECK (kind IN ('tenant', 'member', 'edge')),
    subject  text        NOT NULL,   -- an id; an edge's name
    grace_ms integer     NOT NULL CHECK (grace_ms >= 0),
    since    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, subject)
);
