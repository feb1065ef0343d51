-- The ledger. Tables fall in three groups: what can never change (entries, outcomes), what is
-- derived from it and moves (accounts, pipelines, completions), and what the shell needs to run
-- (offsets, outbox, subjects, refs). One row lock per account is the only mutex.

-- One row: which ledger this is, and the key of its keyed hashes. The key never leaves the database
-- and its backups; without it the hashes in outcomes and entries say nothing about anybody.
CREATE TABLE ledger (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    ledger_id uuid NOT NULL DEFAULT gen_random_uuid(),
    hash_key bytea NOT NULL
        DEFAULT sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO ledger DEFAULT VALUES;

-- The only table that knows who an account belongs to. Erasing a person empties `subject` here;
-- the chain covers account ids and keyed hashes, so it stays verifiable.
CREATE TABLE subjects (
    account_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    subject text UNIQUE CHECK (subject ~ '^(org|user|member):.'),
    commitment uuid NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Members of organizations. What an org allocated to a member is an account of its own
-- (`member:<org>/<user>`, by account ids): a limit on the org's credits, never credits beside them.
CREATE TABLE members (
    org_id bigint NOT NULL,
    user_id bigint NOT NULL,
    account_id bigint NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX members_of_user ON members (user_id);

-- The cached state of an account: always equal to its newest entry (verify checks it). Its live
-- grants are in the row that is locked anyway: [[number, remaining, held, priority, expires_at in
-- microseconds or null], ...] in burn order; what they once were is in `grants` and `entries`.
CREATE TABLE accounts (
    id bigint PRIMARY KEY,
    balance bigint NOT NULL DEFAULT 0 CHECK (balance >= 0),
    held bigint NOT NULL DEFAULT 0 CHECK (held >= 0 AND held <= balance),
    debt bigint NOT NULL DEFAULT 0 CHECK (debt >= 0),
    sequence bigint NOT NULL DEFAULT 0,
    chain_head bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    last_at timestamptz NOT NULL DEFAULT 'epoch',
    grants jsonb NOT NULL DEFAULT '[]',
    granted bigint NOT NULL DEFAULT 0,  -- came in and neither expired nor was taken back
    plan jsonb NOT NULL DEFAULT '{}',   -- tier, period, quota, policy, alerts: what is not default
    due_at timestamptz,                 -- when time next changes it: a grant expires, a tier renews
    checkpointed bigint NOT NULL DEFAULT 0,
    -- Debt is paid first by any rise in what is available, so both are never there at once.
    CHECK (debt = 0 OR held = balance)
) WITH (fillfactor = 50);
CREATE INDEX accounts_due ON accounts (due_at) WHERE due_at IS NOT NULL;

-- Every id below is tx << 14 | n: `tx` from this sequence, taken while the account locks are held,
-- so ids of one account rise in commit order, and one outbox row stands for a range of both tables.
CREATE SEQUENCE tx_seq AS bigint;

-- One row for every accepted command, kept for ever: this is the dedupe index.
CREATE TABLE outcomes (
    id bigint PRIMARY KEY,
    event_key uuid NOT NULL UNIQUE,     -- keyed hash of (source, id)
    usage_key uuid UNIQUE,              -- keyed hash of (source, usage_id)
    fingerprint uuid NOT NULL,          -- keyed hash of type + data
    command text NOT NULL,
    result text NOT NULL,
    entries smallint NOT NULL,          -- how many entries it wrote
    user_id bigint,
    org_id bigint,
    at timestamptz NOT NULL,
    body jsonb,
    batch_size smallint NOT NULL,       -- how many outcomes its transaction wrote
    calls smallint NOT NULL DEFAULT 0,  -- how many it counted against the user's quota
    seal uuid NOT NULL                  -- keyed hash of all of the above
);

-- The ledger itself: sums to the balance, gapless per account, chained by hash.
CREATE TABLE entries (
    id bigint PRIMARY KEY,
    account_id bigint NOT NULL,
    sequence bigint NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('purchase', 'bonus', 'refund', 'adjustment', 'usage',
                                       'expiry', 'hold', 'release', 'debt')),
    amount bigint NOT NULL,
    held_delta bigint NOT NULL,
    debt_delta bigint NOT NULL,
    balance bigint NOT NULL,
    held bigint NOT NULL,
    debt bigint NOT NULL,
    outcome_id bigint NOT NULL,
    cause uuid NOT NULL,                -- event_key of that outcome: the commitment to its event
    hold_id uuid,
    user_id bigint,
    org_id bigint,
    price_version integer,
    phase text,
    provider text,
    model text,
    units bigint,
    input_tokens bigint,
    output_tokens bigint,
    byok boolean,
    occurred_at timestamptz,
    reason text,
    grants bigint[],                    -- number, change of remaining, change of held; and so on
    priority integer,                   -- of the grant that it made
    expires_at timestamptz,
    tier text,                          -- the user's, where the price depended on it
    alert text,                         -- what it raised: low:<micro-credits>, exhausted
    hash bytea NOT NULL,
    UNIQUE (account_id, sequence)
);

-- What grants were when they were made, for people to read; what pays rests on entries alone.
CREATE TABLE grants (
    id bigint PRIMARY KEY,              -- of the entry that made it
    account_id bigint NOT NULL,
    number bigint NOT NULL,             -- the sequence of that entry
    at timestamptz NOT NULL,
    kind text NOT NULL,
    amount bigint NOT NULL,
    priority integer NOT NULL,
    expires_at timestamptz,
    source text,
    allocated_by text,
    notes text,
    layer text,                         -- which layer provisioned it
    arm text,                           -- of a comparison of welcome amounts
    UNIQUE (account_id, number)
);

-- Which programs speak to this ledger (the `source` of their events).
CREATE TABLE sources (
    id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    source text NOT NULL UNIQUE
);

-- What the caller called things. Never needed for money; emptied when a person is erased.
CREATE TABLE refs (
    outcome_id bigint PRIMARY KEY,
    source_id integer NOT NULL,
    event_id text,
    pipeline_id text,
    usage_id text,
    batch_id text,
    correlation_id text,
    traceparent text
);

-- A pipeline that was let in, and its hold if it has one: the primary key is what makes
-- "at most one live hold per pipeline_id" true.
CREATE TABLE pipelines (
    pipeline_key uuid PRIMARY KEY,      -- keyed hash of pipeline_id
    outcome_id bigint NOT NULL,         -- the request that it was let in by
    user_id bigint NOT NULL,
    org_id bigint,
    items integer NOT NULL,
    phases jsonb NOT NULL,
    pruned jsonb NOT NULL,
    hold_id uuid,
    payer_id bigint,
    price_version integer,
    amount bigint NOT NULL DEFAULT 0,
    remaining bigint NOT NULL DEFAULT 0 CHECK (remaining >= 0),
    state text NOT NULL CHECK (state IN ('none', 'live', 'closing', 'closed')),
    expires_at timestamptz,
    usage_settled integer NOT NULL DEFAULT 0,
    usage_expected bigint,
    pins jsonb NOT NULL DEFAULT '[]',   -- [[grant number, part of `remaining`], ...]
    member_id bigint,                   -- the member's account that is held as well
    member_pins jsonb NOT NULL DEFAULT '[]',
    CHECK (state IN ('live', 'closing') OR remaining = 0)
) WITH (fillfactor = 70);
-- For the sweeper: what may be due. `expires_at` is the end of the grace once a hold is closing.
CREATE INDEX pipelines_due ON pipelines (expires_at) WHERE state IN ('live', 'closing');

-- The pruning basis: phases completed for a batch of an org (or user, without org).
CREATE TABLE completions (
    account_id bigint NOT NULL,
    batch_key uuid NOT NULL,            -- keyed hash of batch_id
    phase text NOT NULL,
    items integer,                      -- how many items it covered; NULL: not known, all of them
    PRIMARY KEY (account_id, batch_key, phase)
);

-- Usage that happened and has no price yet. Charged, and removed, once a price is applied.
CREATE TABLE unpriced (
    outcome_id bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    pipeline_key uuid,
    user_id bigint NOT NULL,
    org_id bigint,
    phase text,
    provider text,
    model text,
    units bigint,
    input_tokens bigint,
    output_tokens bigint,
    occurred_at timestamptz NOT NULL
);

CREATE TABLE price_versions (
    version integer PRIMARY KEY,
    effective_from timestamptz NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by text NOT NULL,
    book jsonb NOT NULL
);

-- What is set while the product runs, under the names that people look for. The increment is part
-- of the newest price version too: that is the one that prices.
CREATE TABLE system_settings (
    key text PRIMARY KEY,
    value text NOT NULL,
    updated_by text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO system_settings (key, value, updated_by) VALUES ('credit_minimum_increment', '0.1', 'default');

-- Every administrative act, also those that were refused, in the transaction of what it did. `hash`
-- covers the row before, and a keyed hash of who acted: their name can be erased.
CREATE TABLE audit (
    id bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    actor_key uuid NOT NULL,
    actor text,
    action text NOT NULL,
    result text NOT NULL,
    account_id bigint,
    outcome_id bigint,
    metadata jsonb NOT NULL,
    hash bytea NOT NULL
);
CREATE INDEX audit_of_account ON audit (account_id);

-- How far each consumer group has come, written in the transaction of the money itself.
CREATE TABLE offsets (
    cluster text NOT NULL,
    consumer text NOT NULL,
    topic_id uuid NOT NULL,
    partition integer NOT NULL,
    topic text NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (cluster, consumer, topic_id, partition)
) WITH (fillfactor = 50);

-- What waits to be published: one row a transaction. Only the relay deletes, after the ack.
CREATE TABLE outbox (
    tx bigint PRIMARY KEY,
    checkpoints jsonb                   -- or NULL: nothing but the rows of that transaction
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Each time the database was found to be older than what Kafka remembers (a restored backup).
CREATE TABLE recoveries (
    epoch integer PRIMARY KEY,
    found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_tx bigint NOT NULL,            -- ids from here on were written after the restore
    detail text NOT NULL
);

-- Append-only, for everybody: the owner and replication included. A superuser can still disable a
-- trigger; what they then change, verify names.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % refused: the ledger is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Correct a mistake with a new entry (credits set, grant or refund).';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON outcomes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON price_versions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- Who acted, and who allocated with which words, can be erased; nothing else ever changes.
CREATE TRIGGER append_only BEFORE UPDATE OF id, at, actor_key, action, result, account_id,
    outcome_id, metadata, hash OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OF id, account_id, number, at, kind, amount, priority,
    expires_at, source, layer, arm OR DELETE OR TRUNCATE ON grants
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE audit ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE grants ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE entries ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE outcomes ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE price_versions ENABLE ALWAYS TRIGGER append_only;

-- Roles are shared by the databases of a cluster, so another database may have made it already.
DO $$ BEGIN
    CREATE ROLE faregate_app NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
GRANT USAGE ON SCHEMA public TO faregate_app;
-- `migrations` included, so that doctor can say what is missing.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO faregate_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO faregate_app;
GRANT INSERT ON entries, outcomes, refs, sources, subjects, accounts, pipelines, completions,
    unpriced, price_versions, offsets, outbox, recoveries, members, grants, audit,
    system_settings TO faregate_app;
GRANT UPDATE ON accounts, pipelines, completions, offsets, system_settings TO faregate_app;
GRANT DELETE ON outbox, unpriced, pipelines TO faregate_app;
