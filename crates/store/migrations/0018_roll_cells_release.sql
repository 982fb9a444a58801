-- What a cell gets, where that is not the release of the roll: a way back gives each cell what ran there before.
ALTER TABLE roll_cells ADD COLUMN release integer CHECK (release >= 0);
