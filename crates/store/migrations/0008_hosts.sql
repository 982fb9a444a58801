-- Hosts that tenants say are theirs and how that was proved, and certificates that are ordered for hosts.

-- A host is routed when `hosts` has it. One that is not anybody's to give stands here alone until it is proved.
CREATE TABLE host_claims (
    host       text        NOT NULL,
    tenant_id  uuid        NOT NULL REFERENCES tenants,
    -- What a TXT record or a page has to say. Not secret: both are public.
    token      text        NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    -- Absent until it is proved.
    way        text        CHECK (way IN ('txt', 'http')),
    proved_at  timestamptz,
    looked_at  timestamptz,
    -- What the last look found instead of a proof.
    trouble    text,
    PRIMARY KEY (host, tenant_id)
);
CREATE INDEX host_claims_tenant ON host_claims (tenant_id);
-- By the name alone, for hosts with a path.
CREATE INDEX hosts_name ON hosts (split_part(host, '/', 1));

-- Our account at an authority. Its key is sealed, see `seal.rs`.
CREATE TABLE acme_accounts (
    id                  uuid        PRIMARY KEY,
    directory           text        NOT NULL UNIQUE,
    account_sealed      bytea       NOT NULL,
    account_key_version integer     NOT NULL,
    made_at             timestamptz NOT NULL DEFAULT now()
);

-- One host's way to its certificate, and to the next one.
CREATE TABLE certificate_orders (
    host            text        PRIMARY KEY,
    id              uuid        NOT NULL UNIQUE,
    state           text        NOT NULL CHECK (state IN ('waiting', 'ordered', 'served', 'failed')),
    -- Whoever changes the row names the version it read.
    version         bigint      NOT NULL DEFAULT 1,
    -- The order at the authority, and what edges answer to its question. The key in an answer is that of a certificate
    -- which nobody trusts and which is thrown away with it.
    directory       text,
    order_url       text,
    answer          jsonb,
    -- Of the certificate that is asked for; sealed before it is asked for.
    key_sealed      bytea,
    key_key_version integer,
    certificate_id  uuid        REFERENCES certificates ON DELETE SET NULL,
    trouble         text        CHECK (trouble IN ('wrong_name', 'challenge_failed', 'rate_limited', 'refused',
                                                   'authority_silent', 'edges_silent', 'bad_certificate')),
    detail          text,
    failures        integer     NOT NULL DEFAULT 0,
    next_at         timestamptz NOT NULL,
    changed_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX certificate_orders_next ON certificate_orders (next_at);

-- The host that a certificate was ordered for; absent where a person gave it.
ALTER TABLE certificates ADD COLUMN ordered_for text;
CREATE INDEX certificates_ordered_for ON certificates (ordered_for) WHERE ordered_for IS NOT NULL;

-- One row. What edges answer below /.well-known/ and in handshakes that ask for proof has this version.
CREATE TABLE challenge_head (
    single  boolean PRIMARY KEY DEFAULT true CHECK (single),
    version bigint  NOT NULL
);
INSERT INTO challenge_head (version) VALUES (0);

-- The version that an edge has in force.
ALTER TABLE edges ADD COLUMN challenges bigint NOT NULL DEFAULT 0;
