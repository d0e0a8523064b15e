-- Version 1 of the store's schema; see docs/format/store.md. This file is frozen once released: a change is a new
-- file beside it, run on top. Comments are stripped before it is run (they would be parsed at every opening).
-- Times are nanoseconds since 1970 UTC, digests `sha256:<hex>`, labels and details JSON objects.

CREATE TABLE meta (
  id        INTEGER PRIMARY KEY CHECK (id = 1),
  compat    TEXT NOT NULL,      -- feature flags, words separated by spaces:
  ro_compat TEXT NOT NULL,      --   who does not know one of these may only read,
  incompat  TEXT NOT NULL,      --   and of these, not even that
  created   INTEGER NOT NULL,
  made_by   TEXT NOT NULL,      -- version of the program that made the store
  marks     INTEGER NOT NULL    -- counts transactions that were made for the sake of writing something
) STRICT;

CREATE TABLE blobs (
  digest  TEXT PRIMARY KEY,
  size    INTEGER NOT NULL,     -- bytes
  created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE layers (
  n                INTEGER PRIMARY KEY,   -- snapshots/<n>
  diff_id          TEXT NOT NULL,
  chain_id         TEXT NOT NULL,         -- of the chain it was first unpacked in
  depends_on_below INTEGER NOT NULL,      -- 1: shared by chain_id; 0: by diff_id alone
  root_listed      INTEGER NOT NULL,      -- 1: its archive lists the root directory
  bytes            INTEGER NOT NULL,      -- 512 * st_blocks, hard links once
  apparent         INTEGER NOT NULL,      -- st_size of its files, hard links once
  inodes           INTEGER NOT NULL,
  created          INTEGER NOT NULL,
  UNIQUE (diff_id, chain_id)
) STRICT;

CREATE TABLE snapshots (
  id            INTEGER PRIMARY KEY,
  ns            TEXT NOT NULL,
  key           TEXT NOT NULL,            -- committed ones made for images: the chain ID
  kind          INTEGER NOT NULL,         -- containerd's numbers: 1 view, 2 active, 3 committed
  parent        INTEGER REFERENCES snapshots (id),
  n             INTEGER,                  -- snapshots/<n>; null for a view with something to look at
  held_by_image INTEGER NOT NULL,         -- 1: made with an image, goes with the last that needs it
  ephemeral     INTEGER NOT NULL,         -- 1: not meant to outlive a power cut
  created       INTEGER NOT NULL,
  updated       INTEGER NOT NULL,
  labels        TEXT NOT NULL,
  bytes         INTEGER,                  -- usage, of committed ones that are not in layers
  apparent      INTEGER,
  inodes        INTEGER,
  lower         TEXT,                     -- a directory outside the store beneath everything (the host's root)
  driver        TEXT NOT NULL,            -- who makes its overlay real: auto, kernel or fuse
  userxattr     INTEGER NOT NULL,         -- how it is written: mount options of the overlay
  redirect_dir  INTEGER,                  --   null: the kernel's default
  metacopy      INTEGER,                  --   null: the kernel's default
  volatile      INTEGER NOT NULL,
  uidmap        TEXT,                     -- id mapping of the mount, as the mount options say it
  gidmap        TEXT,
  UNIQUE (ns, key)
) STRICT;
CREATE INDEX snapshots_parent ON snapshots (parent);
CREATE INDEX snapshots_n ON snapshots (n);

CREATE TABLE manifests (
  id                INTEGER PRIMARY KEY,
  digest            TEXT NOT NULL UNIQUE,
  media_type        TEXT NOT NULL,
  size              INTEGER NOT NULL,
  config_digest     TEXT NOT NULL,        -- the image ID
  config_media_type TEXT NOT NULL,
  config_size       INTEGER NOT NULL,
  os                TEXT NOT NULL,
  architecture      TEXT NOT NULL,
  variant           TEXT,
  created           INTEGER,              -- as the config says
  layers            INTEGER NOT NULL,     -- how many; this and the rest follow from manifest_layers, and are
  top_chain         TEXT,                 --   recorded because every `run` asks for them
  bytes             INTEGER NOT NULL,     -- usage of its layers, each directory once
  apparent          INTEGER NOT NULL,
  inodes            INTEGER NOT NULL
) STRICT;
CREATE INDEX manifests_config ON manifests (config_digest);

CREATE TABLE manifest_layers (
  manifest        INTEGER NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
  position        INTEGER NOT NULL,       -- 0 is the base
  blob_digest     TEXT NOT NULL,          -- the blob itself may be absent
  blob_media_type TEXT NOT NULL,
  blob_size       INTEGER NOT NULL,
  diff_id         TEXT NOT NULL,
  chain_id        TEXT NOT NULL,
  n               INTEGER NOT NULL REFERENCES layers (n),
  created_by      TEXT,                   -- the build step, from the config's history
  UNIQUE (manifest, position)
) STRICT;
CREATE INDEX manifest_layers_n ON manifest_layers (n);

CREATE TABLE images (
  id                INTEGER PRIMARY KEY,
  ns                TEXT NOT NULL,
  name              TEXT NOT NULL,        -- canonical and full
  target_digest     TEXT NOT NULL,        -- what the name led to: an index, or the manifest
  target_media_type TEXT NOT NULL,
  target_size       INTEGER NOT NULL,
  manifest          INTEGER NOT NULL REFERENCES manifests (id),
  created           INTEGER NOT NULL,
  updated           INTEGER NOT NULL,
  UNIQUE (ns, name)
) STRICT;
CREATE INDEX images_manifest ON images (manifest);

CREATE TABLE containers (
  id        INTEGER PRIMARY KEY,
  ns        TEXT NOT NULL,
  cid       TEXT NOT NULL,                -- 64 hex; its snapshot's key, if it has one
  name      TEXT NOT NULL,
  image     TEXT,                         -- the name it was made by
  manifest  INTEGER REFERENCES manifests (id),
  ephemeral INTEGER NOT NULL,
  created   INTEGER NOT NULL,
  labels    TEXT NOT NULL,
  details   TEXT NOT NULL,                -- the engine's own
  UNIQUE (ns, cid),
  UNIQUE (ns, name)
) STRICT;
CREATE INDEX containers_manifest ON containers (manifest);

CREATE TABLE leases (
  id      TEXT PRIMARY KEY,               -- leases/<id>
  purpose TEXT NOT NULL,
  created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_blobs (
  lease  TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
  digest TEXT NOT NULL REFERENCES blobs (digest),
  PRIMARY KEY (lease, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_layers (
  lease TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
  n     INTEGER NOT NULL REFERENCES layers (n),
  PRIMARY KEY (lease, n)
) STRICT, WITHOUT ROWID;
