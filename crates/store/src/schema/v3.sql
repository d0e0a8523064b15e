-- From version 2 to 3: volumes, and which containers use them. A program for version 2 would collect their directories,
-- which no row that it knows names. Frozen once released, as v1.sql is.
CREATE TABLE volumes (
  id        INTEGER PRIMARY KEY,
  ns        TEXT NOT NULL,
  name      TEXT NOT NULL,
  n         INTEGER NOT NULL UNIQUE,      -- snapshots/<n>
  anonymous INTEGER NOT NULL,             -- 1: made for one container, and goes with it where that is asked
  ephemeral INTEGER NOT NULL,             -- 1: made with an ephemeral container, and not meant to outlive a power cut
  settled   INTEGER NOT NULL,             -- 1: something was in it once, so that it takes nothing of an image any more
  created   INTEGER NOT NULL,
  labels    TEXT NOT NULL,
  options   TEXT NOT NULL,                -- what it was made with, a JSON object; the engine's own
  UNIQUE (ns, name)
) STRICT;

CREATE TABLE container_volumes (
  container INTEGER NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
  volume    INTEGER NOT NULL REFERENCES volumes (id),
  PRIMARY KEY (container, volume)
) STRICT, WITHOUT ROWID;
CREATE INDEX container_volumes_volume ON container_volumes (volume);
