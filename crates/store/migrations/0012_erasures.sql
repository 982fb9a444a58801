-- What was erased of a tenant, where: the document that shows it. Nothing personal is in it.
CREATE TABLE erasures (
    operation uuid        PRIMARY KEY,
    tenant_id uuid        NOT NULL REFERENCES tenants,
    at        timestamptz NOT NULL DEFAULT now(),
    report    jsonb       NOT NULL
);
