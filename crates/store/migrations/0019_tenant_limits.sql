-- What a tenant has instead of its plan's limits at the edges, as `{"requests_per_minute": {…}, "body_bytes": …}`; nothing: the plan's.
ALTER TABLE tenants ADD COLUMN limits jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object');
