-- The governance plane's state, one row a revision. Plain SQL: times are nanoseconds since 1970 UTC,
-- lists are JSON, hashes are hex.

-- One row: what control was configured with when it ran last.
CREATE TABLE settings (
    number         BIGINT  NOT NULL PRIMARY KEY CHECK (number = 1),
    trust_domain   TEXT    NOT NULL,
    default_class  TEXT    NOT NULL
);

CREATE TABLE events (
    number           BIGINT  NOT NULL PRIMARY KEY,
    event_id         TEXT    NOT NULL UNIQUE,
    occurred_at      BIGINT  NOT NULL,
    actor            TEXT    NOT NULL,
    action           TEXT    NOT NULL,
    object_kind      TEXT    NOT NULL,
    object_id        TEXT    NOT NULL,
    object_revision  BIGINT,
    before_sha256    TEXT,
    after_sha256     TEXT,
    ticket           TEXT,
    comment          TEXT,
    outcome          TEXT    NOT NULL CHECK (outcome IN ('done', 'refused')),
    reason           TEXT,
    peer_address     TEXT
);

CREATE TABLE documents (
    sha256     TEXT NOT NULL PRIMARY KEY,
    file       TEXT NOT NULL,
    text       TEXT NOT NULL
);

CREATE TABLE apis (
    api              TEXT    NOT NULL,
    revision         BIGINT  NOT NULL,
    api_version      TEXT    NOT NULL,
    status           TEXT    NOT NULL CHECK (status IN ('published', 'deprecated', 'retired')),
    owner_team       TEXT    NOT NULL,
    server           TEXT,
    access           TEXT    NOT NULL CHECK (access IN ('bundle', 'token', 'both')),
    protocol         TEXT,
    openapi          TEXT    NOT NULL,
    document_sha256  TEXT    NOT NULL REFERENCES documents (sha256),
    scopes           TEXT    NOT NULL,
    retention_class  TEXT    NOT NULL,
    recorded_at      BIGINT  NOT NULL,
    event_id         TEXT    NOT NULL REFERENCES events (event_id),
    PRIMARY KEY (api, revision)
);

CREATE TABLE operations (
    api              TEXT    NOT NULL,
    revision         BIGINT  NOT NULL,
    position         BIGINT  NOT NULL,
    operation        TEXT    NOT NULL,
    method           TEXT    NOT NULL,
    route            TEXT    NOT NULL,
    scopes           TEXT    NOT NULL,
    retention_class  TEXT    NOT NULL,
    open             BIGINT  NOT NULL CHECK (open IN (0, 1)),
    PRIMARY KEY (api, revision, position),
    UNIQUE (api, revision, operation),
    FOREIGN KEY (api, revision) REFERENCES apis (api, revision)
);

CREATE TABLE workloads (
    spiffe_id          TEXT    NOT NULL,
    revision           BIGINT  NOT NULL,
    name               TEXT    NOT NULL,
    app                TEXT    NOT NULL,
    team               TEXT    NOT NULL,
    site               TEXT,
    zone               TEXT,
    addresses          TEXT    NOT NULL,
    join_token_sha256  TEXT,
    event_id           TEXT    NOT NULL REFERENCES events (event_id),
    PRIMARY KEY (spiffe_id, revision)
);

CREATE TABLE grants (
    grant_id                TEXT    NOT NULL,
    revision                BIGINT  NOT NULL,
    state                   TEXT    NOT NULL
        CHECK (state IN ('requested', 'approved', 'rejected', 'revoked', 'expired')),
    consumer                TEXT    NOT NULL,
    consumer_app            TEXT,
    api                     TEXT    NOT NULL,
    operations              TEXT    NOT NULL,
    purpose                 TEXT    NOT NULL,
    ticket                  TEXT    NOT NULL,
    requested_by            TEXT    NOT NULL,
    requested_at            BIGINT  NOT NULL,
    decided_by              TEXT,
    decided_at              BIGINT,
    not_before              BIGINT,
    expires                 BIGINT  NOT NULL,
    reviewed_by             TEXT,
    reviewed_at             BIGINT,
    review_due_at           BIGINT,
    revoked_by              TEXT,
    revoked_at              BIGINT,
    revocation_proposed_by  TEXT,
    recorded_at             BIGINT  NOT NULL,
    event_id                TEXT    NOT NULL REFERENCES events (event_id),
    owner_team              TEXT,
    PRIMARY KEY (grant_id, revision),
    -- Four eyes, once more: the code compares letter cases and spaces, too.
    CHECK (state <> 'approved' OR decided_by <> requested_by)
);

-- What the books are owed: each row names a revision above. Once it stands in the spool, synced,
-- epoch and seq say where.
CREATE TABLE outbox (
    number     BIGINT  NOT NULL PRIMARY KEY,
    kind       TEXT    NOT NULL CHECK (kind IN ('event', 'api', 'grant')),
    object_id  TEXT    NOT NULL,
    revision   BIGINT  NOT NULL,
    epoch      BIGINT,
    seq        BIGINT
);

CREATE INDEX outbox_owed ON outbox (number) WHERE epoch IS NULL;
