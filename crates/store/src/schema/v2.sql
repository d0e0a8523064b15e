-- From version 1 to 2: what things take on disk once they are there, when images were last used, blobs that a name
-- keeps besides those of its manifest, files whose blocks layers share. Frozen once released, as v1.sql is.

-- 512 * st_blocks of snapshots/<n> without its fs: the directory, the record, what an overlay left in work. Null: not
-- measured since it is on disk; bytes, apparent and inodes are then what was counted while it was written.
ALTER TABLE layers ADD COLUMN overhead INTEGER;
ALTER TABLE snapshots ADD COLUMN overhead INTEGER;

-- 512 * st_blocks; null: not measured yet.
ALTER TABLE blobs ADD COLUMN bytes INTEGER;

-- When a container was last made from it, to the minute, or the name was given to it.
ALTER TABLE images ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
UPDATE images SET used = updated;

-- Blobs that a name keeps besides those of its manifest: of an index that is kept whole, the other platforms'.
CREATE TABLE image_blobs (
  image  INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  digest TEXT NOT NULL REFERENCES blobs (digest),
  PRIMARY KEY (image, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_blobs_digest ON image_blobs (digest);

-- Content that files of layer n have on the same blocks as files of other layers with that content.
CREATE TABLE layer_clones (
  content BLOB NOT NULL,                  -- XXH3-128 of the content, and its size in bytes, big-endian
  n       INTEGER NOT NULL REFERENCES layers (n) ON DELETE CASCADE,
  files   INTEGER NOT NULL,               -- how many files of the layer
  bytes   INTEGER NOT NULL,               -- 512 * st_blocks of one of them
  PRIMARY KEY (content, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX layer_clones_n ON layer_clones (n);
