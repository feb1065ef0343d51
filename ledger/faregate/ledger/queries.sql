-- Every statement of the store, by name. `$n` are the driver's parameters.

-- name: ledger
SELECT ledger_id, hash_key FROM ledger;

-- name: ensure_accounts
-- $1 subjects, $2 commitments, sorted alike, so that two callers never wait for each other in turn.
-- An account needs its row before it can be locked: FOR UPDATE locks nothing where there is none.
WITH made AS (
    INSERT INTO subjects (subject, commitment)
    SELECT subject, commitment FROM unnest($1::text[], $2::uuid[]) AS w (subject, commitment)
    ON CONFLICT DO NOTHING
    RETURNING account_id
)
INSERT INTO accounts (id) SELECT account_id FROM made;

-- name: accounts_of_subjects
SELECT account_id, subject FROM subjects WHERE subject = ANY ($1::text[]);

-- name: subjects_of_accounts
SELECT account_id, subject FROM subjects WHERE account_id = ANY ($1::bigint[]);

-- name: ensure_source
INSERT INTO sources (source) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: source_id
SELECT id FROM sources WHERE source = $1;

-- name: all_sources
SELECT source FROM sources ORDER BY id;

-- name: ensure_members
-- $1 orgs, $2 users (account ids), $3 commitments, sorted alike.
WITH wanted AS (
    SELECT w.* FROM unnest($1::bigint[], $2::bigint[], $3::uuid[])
        AS w (org_id, user_id, commitment)
), made AS (
    INSERT INTO subjects (subject, commitment)
    SELECT 'member:' || org_id || '/' || user_id, commitment FROM wanted
    ON CONFLICT DO NOTHING
    RETURNING account_id, commitment
), listed AS (
    INSERT INTO members (org_id, user_id, account_id)
    SELECT w.org_id, w.user_id, m.account_id FROM made m JOIN wanted w USING (commitment)
)
INSERT INTO accounts (id) SELECT account_id FROM made;

-- name: lock_accounts
-- The one mutex (rule 3): every account of the batch, in one statement and one order: those named
-- ($1), payers and members of its pipelines' holds ($2), and members of its orgs ($3, $4: pairs of
-- org and user). The subject comes with it, because what a process remembers of it may be from
-- before a backup was restored.
SELECT a.id, a.balance, a.held, a.debt, a.sequence, a.chain_head, a.last_at, a.grants, a.granted,
       a.plan, s.subject, m.org_id, m.user_id
FROM accounts a
JOIN subjects s ON s.account_id = a.id
LEFT JOIN members m ON m.account_id = a.id
WHERE a.id IN (
    SELECT unnest($1::bigint[])
    UNION
    SELECT unnest(ARRAY[p.payer_id, p.member_id]) FROM pipelines p
    WHERE p.pipeline_key = ANY ($2::uuid[]) AND p.payer_id IS NOT NULL
    UNION
    SELECT m.account_id FROM members m
    JOIN unnest($3::bigint[], $4::bigint[]) AS w (org_id, user_id)
        ON m.org_id = w.org_id AND m.user_id = w.user_id
)
ORDER BY a.id
FOR UPDATE OF a;

-- name: context
-- Read after locking: time and transaction number of one account only ever rise.
SELECT clock_timestamp() AS now, nextval('tx_seq') AS tx,
       (SELECT max(version) FROM price_versions) AS price_version,
       (SELECT erasures FROM ledger) AS erasures;

-- name: erasures
-- How many people have been erased: names that are remembered from before may be another's now.
SELECT erasures FROM ledger;

-- name: pipelines
SELECT pipeline_key, outcome_id, user_id, org_id, items, phases, pruned, hold_id, payer_id,
       price_version, amount, remaining, state, expires_at, usage_settled, usage_expected,
       pins, member_id, member_pins
FROM pipelines WHERE pipeline_key = ANY ($1::uuid[]);

-- name: state
-- All that a decision rests on, in one round trip, read after locking like `context`; `part` tells
-- what a row is. $1 event keys, $2 usage keys, $3 pipelines, $4 accounts and $5 batches alike, $6
-- orgs and $7 users alike: a member may have been made while the lock waited.
SELECT 'context' AS part, clock_timestamp() AS now, nextval('tx_seq') AS tx,
       (SELECT max(version) FROM price_versions) AS price_version,
       NULL::uuid AS event_key, NULL::uuid AS usage_key, NULL::uuid AS fingerprint,
       NULL::text AS result, NULL::bigint AS outcome_id, NULL::uuid AS pipeline_key,
       NULL::bigint AS user_id, NULL::bigint AS org_id, NULL::integer AS items,
       NULL::jsonb AS phases, NULL::jsonb AS pruned, NULL::uuid AS hold_id,
       NULL::bigint AS payer_id, NULL::bigint AS amount, NULL::bigint AS remaining,
       NULL::text AS state, NULL::timestamptz AS expires_at, NULL::integer AS usage_settled,
       NULL::bigint AS usage_expected, NULL::bigint AS account_id, NULL::uuid AS batch_key,
       NULL::text AS phase, NULL::jsonb AS pins, NULL::bigint AS member_id,
       NULL::jsonb AS member_pins, (SELECT erasures FROM ledger) AS erasures
UNION ALL
SELECT 'seen', NULL, NULL, NULL, event_key, usage_key, fingerprint, result, id, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL
FROM outcomes WHERE event_key = ANY ($1::uuid[])
UNION ALL
SELECT 'seen', NULL, NULL, NULL, event_key, usage_key, fingerprint, result, id, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL
FROM outcomes WHERE usage_key = ANY ($2::uuid[])
UNION ALL
SELECT 'pipeline', NULL, NULL, price_version, NULL, NULL, NULL, NULL, outcome_id, pipeline_key,
       user_id, org_id, items, phases, pruned, hold_id, payer_id, amount, remaining, state,
       expires_at, usage_settled, usage_expected, NULL, NULL, NULL, pins, member_id, member_pins,
       NULL
FROM pipelines WHERE pipeline_key = ANY ($3::uuid[])
UNION ALL
SELECT 'completion', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, c.items,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, c.account_id, c.batch_key,
       c.phase, NULL, NULL, NULL, NULL
FROM completions c
JOIN unnest($4::bigint[], $5::uuid[]) AS w (account_id, batch_key)
    ON c.account_id = w.account_id AND c.batch_key = w.batch_key
UNION ALL
SELECT 'member', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
       NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, m.account_id, NULL, NULL, NULL, NULL, NULL,
       NULL
FROM members m
JOIN unnest($6::bigint[], $7::bigint[]) AS p (org_id, user_id)
    ON m.org_id = p.org_id AND m.user_id = p.user_id;

-- name: price_versions
SELECT version, effective_from, book FROM price_versions ORDER BY version;

-- name: update_accounts
-- $10: NULL where the plan is as it was.
UPDATE accounts a
SET balance = w.balance, held = w.held, debt = w.debt, sequence = w.sequence,
    chain_head = w.chain_head, last_at = w.last_at, grants = w.grants, granted = w.granted,
    plan = coalesce(w.plan, a.plan), due_at = w.due_at
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[],
            $7::timestamptz[], $8::jsonb[], $9::bigint[], $10::jsonb[], $11::timestamptz[])
    AS w (id, balance, held, debt, sequence, chain_head, last_at, grants, granted, plan, due_at)
WHERE a.id = w.id;

-- name: delete_pipelines
-- Before a pipeline_id is used anew. $2: the request each was loaded with, so that somebody else's
-- newer run is never overwritten.
DELETE FROM pipelines p USING unnest($1::uuid[], $2::bigint[]) AS w (pipeline_key, outcome_id)
WHERE p.pipeline_key = w.pipeline_key AND p.outcome_id = w.outcome_id;

-- name: update_holds
UPDATE pipelines p
SET remaining = w.remaining, state = w.state, expires_at = w.expires_at,
    usage_settled = w.usage_settled, usage_expected = w.usage_expected, pins = w.pins,
    member_pins = w.member_pins
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[], $5::integer[], $6::bigint[],
            $7::jsonb[], $8::jsonb[])
    AS w (pipeline_key, remaining, state, expires_at, usage_settled, usage_expected, pins,
          member_pins)
WHERE p.pipeline_key = w.pipeline_key;

-- name: put_completions
INSERT INTO completions (account_id, batch_key, phase, items)
SELECT account_id, batch_key, phase, items
FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::integer[])
    AS w (account_id, batch_key, phase, items)
ON CONFLICT (account_id, batch_key, phase) DO UPDATE SET items = EXCLUDED.items;

-- name: delete_unpriced
DELETE FROM unpriced WHERE outcome_id = ANY ($1::bigint[]);

-- name: put_offsets
-- Never back: a zombie's late batch cannot undo what its successor has read.
INSERT INTO offsets AS o (cluster, consumer, topic_id, partition, topic, next_offset)
SELECT $1, $2, topic_id, partition, topic, next_offset
FROM unnest($3::uuid[], $4::integer[], $5::text[], $6::bigint[])
    AS w (topic_id, partition, topic, next_offset)
ORDER BY topic_id, partition
ON CONFLICT (cluster, consumer, topic_id, partition)
DO UPDATE SET next_offset = greatest(o.next_offset, EXCLUDED.next_offset), topic = EXCLUDED.topic;

-- name: offsets_behind
-- Gives the partitions whose kept offset was lower than the caller knows it to be ($6): the
-- database is a restored backup.
SELECT w.topic, w.partition, w.known, coalesce(o.next_offset, 0) AS kept
FROM unnest($3::uuid[], $4::integer[], $5::text[], $6::bigint[])
    AS w (topic_id, partition, topic, known)
LEFT JOIN offsets o
    ON (o.cluster, o.consumer, o.topic_id, o.partition) = ($1, $2, w.topic_id, w.partition)
WHERE coalesce(o.next_offset, 0) < w.known;

-- name: offsets
SELECT topic_id, partition, next_offset FROM offsets WHERE cluster = $1 AND consumer = $2;

-- name: put_outbox
INSERT INTO outbox (tx, checkpoints) VALUES ($1, $2);

-- name: outbox
-- What is announced goes ($1); what is on its way ($2) is not read again.
WITH gone AS (DELETE FROM outbox WHERE tx = ANY ($1::bigint[]))
SELECT tx, checkpoints, (SELECT erasures FROM ledger) AS erasures FROM outbox
WHERE tx <> ALL ($1::bigint[] || $2::bigint[])
ORDER BY tx LIMIT $3;

-- name: lock_relay
SELECT pg_try_advisory_lock(hashtextextended('faregate.relay', 0));

-- name: announced_entries
SELECT e.*, r.event_id, r.pipeline_id, r.usage_id, r.correlation_id, r.traceparent, r.tracestate
FROM entries e LEFT JOIN refs r ON r.outcome_id = e.outcome_id
WHERE e.id >= $1 AND e.id < $2
ORDER BY e.id;

-- name: announced_outcomes
SELECT o.id, o.event_key, o.result, o.user_id, o.org_id, o.at, o.body,
       r.event_id, r.pipeline_id, r.usage_id, r.batch_id, r.correlation_id, r.traceparent,
       r.tracestate
FROM outcomes o LEFT JOIN refs r ON r.outcome_id = o.id
WHERE o.id >= $1 AND o.id < $2 AND o.result IN ('initiated', 'denied', 'unpriced')
ORDER BY o.id;

-- name: due_holds
SELECT p.pipeline_key, p.hold_id, p.user_id, p.org_id, r.pipeline_id, r.batch_id,
       (SELECT erasures FROM ledger) AS erasures
FROM pipelines p LEFT JOIN refs r ON r.outcome_id = p.outcome_id
WHERE p.state IN ('live', 'closing') AND p.expires_at <= statement_timestamp()
ORDER BY p.expires_at LIMIT $1;

-- name: unpriced_usage
SELECT u.*, o.event_key, r.pipeline_id, r.usage_id, r.correlation_id,
       (SELECT erasures FROM ledger) AS erasures
FROM unpriced u
JOIN outcomes o ON o.id = u.outcome_id
LEFT JOIN refs r ON r.outcome_id = u.outcome_id
WHERE u.outcome_id > $1
ORDER BY u.outcome_id LIMIT $2;

-- name: prices_in_force
-- How many versions have started: while it stays the same, what was unpriced still is. `settled`:
-- no transaction that was decided before the last one started can still be open.
SELECT count(*) AS started,
       coalesce(max(greatest(effective_from, applied_at)) < statement_timestamp() - interval '60s',
                true) AS settled
FROM price_versions WHERE effective_from <= statement_timestamp();

-- name: lock_uncheckpointed
SELECT id, sequence, balance, held, debt, chain_head FROM accounts
WHERE sequence > checkpointed
ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED;

-- name: mark_checkpointed
UPDATE accounts SET checkpointed = sequence WHERE id = ANY ($1::bigint[]);

-- name: epoch
SELECT coalesce(max(epoch), 0) FROM recoveries;

-- name: add_recovery
INSERT INTO recoveries (epoch, from_tx, detail)
SELECT coalesce(max(epoch), 0) + 1, nextval('tx_seq'), $1 FROM recoveries;

-- name: apply_prices
INSERT INTO price_versions (version, effective_from, applied_by, book)
SELECT coalesce(max(version), 0) + 1, coalesce($1, clock_timestamp()), $2, $3 FROM price_versions
RETURNING version, effective_from;

-- name: due_accounts
-- Page by page: those after ($2, $3), so that one that stays due is looked at once in a sweep.
SELECT a.id, a.due_at, s.subject, statement_timestamp() AS now,
       (SELECT erasures FROM ledger) AS erasures
FROM accounts a JOIN subjects s ON s.account_id = a.id
WHERE a.due_at <= statement_timestamp() AND (a.due_at, a.id) > ($2, $3)
ORDER BY a.due_at, a.id LIMIT $1;

-- name: account
SELECT a.id, a.balance, a.held, a.debt, a.sequence, a.grants, a.granted, a.plan, s.created_at,
       a.last_at
FROM accounts a JOIN subjects s ON s.account_id = a.id WHERE s.subject = $1;

-- name: account_at
SELECT balance, held, debt, sequence FROM entries
WHERE account_id = $1 AND at <= $2 ORDER BY sequence DESC LIMIT 1;

-- name: history
SELECT e.*, r.event_id, r.pipeline_id, r.usage_id, r.correlation_id
FROM entries e LEFT JOIN refs r ON r.outcome_id = e.outcome_id
WHERE e.account_id = $1 AND e.sequence < $2
ORDER BY e.sequence DESC LIMIT $3;

-- name: newest_prices
SELECT max(version) AS version, clock_timestamp() AS now FROM price_versions;

-- name: price_history
-- For people: every version with who applied it; $1 NULL or one version.
SELECT version, effective_from, applied_at, applied_by, book, clock_timestamp() AS now
FROM price_versions WHERE $1::integer IS NULL OR version = $1 ORDER BY version;

-- name: unpriced_kinds
-- Usage that waits for a price, by what it was for.
SELECT phase, provider, model, count(*) AS events, min(occurred_at) AS first, max(occurred_at) AS last
FROM unpriced GROUP BY phase, provider, model ORDER BY count(*) DESC, phase, model;

-- name: waiting
-- For the relay, and for the sweeper.
SELECT (SELECT count(*) FROM outbox) AS outbox,
       (SELECT count(*) FROM pipelines
        WHERE state IN ('live', 'closing') AND expires_at <= statement_timestamp()) AS overdue_holds;

-- name: now
SELECT clock_timestamp();

-- name: own_clock
-- Whether time is PostgreSQL's own: a test may put functions of the same names before it. A database
-- that has them is no other's, also where the search path does not lead to them.
SELECT NOT EXISTS (
    SELECT 1 FROM pg_proc p
    WHERE p.proname IN ('clock_timestamp', 'statement_timestamp', 'now') AND p.pronargs = 0
      AND p.pronamespace <> 'pg_catalog'::regnamespace
);

-- name: patience
-- For a person's question over a whole table: longer than a decision may take.
SELECT set_config('statement_timeout', '60s', false), set_config('transaction_timeout', '90s', false);

-- name: outcomes_of_pipeline
-- All that was accepted for a pipeline_id. Reads the whole of refs: for a person's question only.
SELECT o.id, o.event_key, o.command, o.result, o.user_id, o.org_id, o.at, o.body,
       r.event_id, r.usage_id, r.batch_id, r.pipeline_id, r.correlation_id, s.source
FROM refs r JOIN outcomes o ON o.id = r.outcome_id JOIN sources s ON s.id = r.source_id
WHERE r.pipeline_id = $1
ORDER BY o.id;

-- name: outcomes_of_keys
-- $1 event keys, $2 usage keys.
SELECT o.id, o.event_key, o.usage_key, o.command, o.result, o.user_id, o.org_id, o.at, o.body,
       r.event_id, r.usage_id, r.batch_id, r.pipeline_id, r.correlation_id, s.source
FROM outcomes o LEFT JOIN refs r ON r.outcome_id = o.id LEFT JOIN sources s ON s.id = r.source_id
WHERE o.event_key = ANY ($1::uuid[]) OR o.usage_key = ANY ($2::uuid[])
ORDER BY o.id;

-- name: entries_of_outcomes
-- The entries of an outcome have the transaction number of its id: $1 outcomes, $2 and $3 the
-- lowest and the highest id they can have.
SELECT e.*, r.event_id, r.pipeline_id, r.usage_id, r.correlation_id
FROM entries e LEFT JOIN refs r ON r.outcome_id = e.outcome_id
WHERE e.id >= $2 AND e.id < $3 AND e.outcome_id = ANY ($1::bigint[])
ORDER BY e.id;

-- name: entries_of_hold
-- $1 the hold's payer, $2 the hold, $3 the request that made it.
SELECT e.*, r.event_id, r.pipeline_id, r.usage_id, r.correlation_id
FROM entries e LEFT JOIN refs r ON r.outcome_id = e.outcome_id
WHERE e.account_id = $1 AND e.hold_id = $2 AND e.outcome_id >= $3
ORDER BY e.id;

-- name: account_before
-- What an account had before an outcome ($2).
SELECT balance, held, debt FROM entries
WHERE account_id = $1 AND (outcome_id < $2 OR (outcome_id = $2 AND kind <> 'hold'))
ORDER BY sequence DESC LIMIT 1;

-- name: doctor_migrations
SELECT name, checksum FROM migrations;

-- name: doctor_outbox
SELECT count(*) AS waiting FROM (SELECT 1 FROM outbox LIMIT 10000) AS o;

-- name: doctor_relay
-- Whether some relay holds the lock of `lock_relay`.
SELECT EXISTS (
    SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted
      AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('faregate.relay', 0)
);

-- name: lock_audit
-- The newest row; nobody else appends before this transaction ends. A lock, then a look: a new
-- statement sees what was committed while it waited.
SELECT pg_advisory_xact_lock(hashtextextended('faregate.audit', 0));

-- name: last_audit
SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1;

-- name: add_audit
INSERT INTO audit (id, at, actor_key, action, result, account_id, outcome_id, metadata, hash, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- Provisioning report.

-- name: report_users
-- Everybody who was named by anything, and what became of their welcome.
SELECT count(*) AS seen,
       count(*) FILTER (WHERE a.plan ->> 'welcome' = 'given') AS provisioned,
       count(*) FILTER (WHERE a.plan ->> 'welcome' = 'pending') AS pending
FROM accounts a JOIN subjects s ON s.account_id = a.id
WHERE s.subject LIKE 'user:%' OR (s.subject IS NULL AND a.plan ? 'welcome');

-- name: report_grants
-- What provisioning gave, and what is left of it. A grant that is no more among its account's live
-- ones was used up, unless an expiry took the last of it; one whose time is over is as good as expired.
WITH given AS (
    SELECT g.layer, g.arm, g.source, g.amount,
           coalesce(live.remaining, 0) AS remaining,
           CASE WHEN live.remaining > 0 AND g.expires_at <= statement_timestamp() THEN 'expired'
                WHEN live.remaining = g.amount THEN 'unused'
                WHEN live.remaining > 0 THEN 'in_use'
                WHEN g.expires_at <= statement_timestamp() AND EXISTS (
                    SELECT FROM entries e
                    WHERE e.account_id = g.account_id AND e.sequence > g.number
                      AND e.kind = 'expiry' AND e.grants[1] = g.number
                ) THEN 'expired'
                ELSE 'used_up' END AS state
    FROM grants g
    JOIN accounts a ON a.id = g.account_id
    LEFT JOIN LATERAL (
        SELECT (e ->> 1)::bigint AS remaining FROM jsonb_array_elements(a.grants) AS e
        WHERE (e ->> 0)::bigint = g.number
    ) AS live ON true
    WHERE g.layer IS NOT NULL OR g.source = 'referral_bonus'
)
SELECT coalesce(layer, source) AS layer, arm, source, count(*) AS grants,
       sum(amount)::bigint AS micro, sum(remaining)::bigint AS left_micro,
       count(*) FILTER (WHERE state = 'unused') AS unused,
       count(*) FILTER (WHERE state = 'in_use') AS in_use,
       count(*) FILTER (WHERE state = 'used_up') AS used_up,
       count(*) FILTER (WHERE state = 'expired') AS expired
FROM given GROUP BY layer, arm, source ORDER BY layer, arm, source;

-- Calls over HTTP that are no commands.

-- name: lock_call
-- One call at a time with this key, until the transaction ends. A lock, then a look: a new statement
-- sees what was committed while it waited.
SELECT pg_advisory_xact_lock(hashtextextended('faregate.call ' || $1::uuid, 0));

-- name: try_lock_call
-- The same, for the session: for work that is done outside of a transaction.
SELECT pg_try_advisory_lock(hashtextextended('faregate.call ' || $1::uuid, 0));

-- name: unlock_call
SELECT pg_advisory_unlock(hashtextextended('faregate.call ' || $1::uuid, 0));

-- name: http_call
SELECT fingerprint, answer FROM http_calls WHERE call_key = $1;

-- name: add_http_call
INSERT INTO http_calls (call_key, caller_key, fingerprint, answer) VALUES ($1, $2, $3, $4);
