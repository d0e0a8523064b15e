-- From version 3 to 4: which names of images are those that they were pulled by, so that what is damaged is not asked for
-- elsewhere. Of names that were there before, nobody knows. Frozen once released, as v1.sql is.
ALTER TABLE images ADD COLUMN pulled INTEGER NOT NULL DEFAULT 1;  -- 0: loaded, made here, or a further name
