-- What an adapter has to know of one cell besides its section of the stack file, such as where an endpoint is. Sealed
-- as a whole: there is a connection string with its password in it.
ALTER TABLE cells
    ADD COLUMN settings_sealed      bytea,
    ADD COLUMN settings_key_version integer,
    ADD CHECK ((settings_sealed IS NULL) = (settings_key_version IS NULL));
