-- What was measured in a cell, the last figure of each kind: it stands in place of what a catalogue claims.

CREATE TABLE cell_figures (
    cell_id     uuid             NOT NULL REFERENCES cells,
    what        text             NOT NULL,
    unit        text             NOT NULL,
    value       double precision NOT NULL,
    samples     integer          NOT NULL CHECK (samples > 0),
    measured_at timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (cell_id, what)
);
