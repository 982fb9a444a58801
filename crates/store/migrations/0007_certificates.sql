-- TLS certificates of the hosts that edges serve. Keys are sealed, see `seal.rs`.
CREATE TABLE certificates (
    id              uuid        PRIMARY KEY,
    -- Rises with every certificate: edges ask by it, and of two with one name the later one has it.
    version         bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
    names           text[]      NOT NULL,
    issuer          text        NOT NULL,
    not_before      timestamptz NOT NULL,
    not_after       timestamptz NOT NULL,
    chain_pem       text        NOT NULL,
    key_sealed      bytea       NOT NULL,
    key_key_version integer     NOT NULL,
    added_by        text        NOT NULL,
    added_at        timestamptz NOT NULL DEFAULT now()
);
