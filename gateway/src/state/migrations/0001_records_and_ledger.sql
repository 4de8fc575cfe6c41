-- What the gateway knows, one row a thing. `body` is JSON text; its meaning belongs to the kind.
CREATE TABLE records (
    kind         TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    revision     INTEGER NOT NULL CHECK (revision > 0),
    agency       TEXT,
    parent       TEXT,
    body         BLOB    NOT NULL,
    changed_at   INTEGER NOT NULL,
    -- The leaves that were committed together with this revision: the first of them, and the size of the ledger after
    -- the last. NULL where there was none.
    ledger_first INTEGER,
    ledger_size  INTEGER
) STRICT;
CREATE UNIQUE INDEX records_by_id ON records (kind, id);
CREATE INDEX records_by_agency ON records (kind, agency, id) WHERE agency IS NOT NULL;
CREATE INDEX records_by_parent ON records (kind, parent, id) WHERE parent IS NOT NULL;

-- The ledger. `salt` and `payload` open the leaf's commitment; both may be purged, and no proof changes.
CREATE TABLE leaves (
    leaf_index INTEGER PRIMARY KEY CHECK (leaf_index >= 0),
    bytes      BLOB NOT NULL,
    salt       BLOB,
    payload    BLOB
) STRICT;

-- The hash of every complete subtree.
CREATE TABLE nodes (
    level      INTEGER NOT NULL,
    node_index INTEGER NOT NULL,
    hash       BLOB    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, node_index)
) STRICT, WITHOUT ROWID;

-- Every size at which a commit ended, with its root: there is never a second root for a size.
CREATE TABLE heads (
    size INTEGER PRIMARY KEY CHECK (size > 0),
    root BLOB NOT NULL CHECK (length(root) = 32)
) STRICT;
