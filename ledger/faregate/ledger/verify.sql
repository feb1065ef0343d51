-- The statements of verify. All are read in one snapshot. In every statement $1 is the time of
-- `--since`, or NULL for everything. Those that look for what is wrong give the rows that are, at
-- most a hundred, with their number in `total`.

-- name: entries
-- Times that no Python has ('infinity', the year 99999) are read as the epoch: their hash tells.
SELECT id, account_id, sequence,
       CASE WHEN at BETWEEN '0001-01-02+0' AND '9999-12-30+0' THEN at ELSE 'epoch' END AS at,
       amount, held_delta, debt_delta, balance, held, debt, outcome_id, kind, cause, hold_id,
       user_id, org_id, price_version, phase, provider, model, units, input_tokens, output_tokens,
       byok,
       CASE WHEN occurred_at BETWEEN '0001-01-02+0' AND '9999-12-30+0' THEN occurred_at
            WHEN occurred_at IS NOT NULL THEN 'epoch' END AS occurred_at,
       reason, grants, priority,
       CASE WHEN expires_at BETWEEN '0001-01-02+0' AND '9999-12-31 23:59:59.999998+0' THEN expires_at
            WHEN expires_at IS NOT NULL THEN 'epoch' END AS expires_at,
       tier, alert, hash
FROM entries
WHERE $1::timestamptz IS NULL OR account_id IN (
    SELECT id FROM accounts WHERE last_at >= $1
    UNION SELECT account_id FROM entries WHERE at >= $1
)
ORDER BY account_id, sequence;

-- name: entry_count
SELECT count(*) FROM entries
WHERE $1::timestamptz IS NULL OR account_id IN (
    SELECT id FROM accounts WHERE last_at >= $1
    UNION SELECT account_id FROM entries WHERE at >= $1
);

-- name: accounts
-- Every account with its subject and what its pipelines hold; also those with half of that.
SELECT coalesce(a.id, s.account_id) AS id, a.id IS NOT NULL AS has_account,
       s.account_id IS NOT NULL AS has_subject, s.subject, s.commitment,
       a.balance, a.held, a.debt, a.sequence, a.chain_head, a.checkpointed, a.grants, a.granted,
       CASE WHEN a.due_at BETWEEN '0001-01-02+0' AND '9999-12-31 23:59:59.999998+0' THEN a.due_at
       END AS due_at,
       CASE WHEN a.last_at BETWEEN '0001-01-02+0' AND '9999-12-30+0' THEN a.last_at
            WHEN a.id IS NOT NULL THEN 'epoch' END AS last_at,
       coalesce(p.remaining, 0)::bigint AS remaining
FROM accounts a
FULL JOIN subjects s ON s.account_id = a.id
LEFT JOIN (
    SELECT h.account_id, sum(p.remaining) AS remaining
    FROM pipelines p CROSS JOIN LATERAL (VALUES (p.payer_id), (p.member_id)) AS h (account_id)
    WHERE p.state IN ('live', 'closing') AND h.account_id IS NOT NULL GROUP BY h.account_id
) p ON p.account_id = coalesce(a.id, s.account_id)
WHERE $1::timestamptz IS NULL OR coalesce(a.id, s.account_id) IN (
    SELECT id FROM accounts WHERE last_at >= $1
    UNION SELECT account_id FROM entries WHERE at >= $1
)
ORDER BY 1;

-- name: causes
-- Entries whose outcome is missing or another one. An entry is never older than its outcome.
SELECT e.id, e.account_id, e.sequence, e.outcome_id, o.id IS NULL AS missing,
       o.event_key <> e.cause AS other_cause, e.at < o.at AS too_old,
       e.kind IN ('usage', 'hold') AND o.user_id IS DISTINCT FROM e.user_id AS other_user,
       e.kind = 'hold' AND o.org_id IS DISTINCT FROM e.org_id AS other_org,
       e.price_version IS NOT NULL AND v.version IS NULL AS unknown_price,
       count(*) OVER () AS total
FROM entries e
LEFT JOIN outcomes o ON o.id = e.outcome_id
LEFT JOIN price_versions v ON v.version = e.price_version
WHERE ($1::timestamptz IS NULL OR e.at >= $1)
  AND (o.id IS NULL OR o.event_key <> e.cause OR e.at < o.at
       OR (e.kind IN ('usage', 'hold') AND o.user_id IS DISTINCT FROM e.user_id)
       OR (e.kind = 'hold' AND o.org_id IS DISTINCT FROM e.org_id)
       OR (e.price_version IS NOT NULL AND v.version IS NULL))
ORDER BY e.id LIMIT 100;

-- name: outcomes
-- Outcomes whose entries are not as many, or not of the kind, that they say; and those of nobody.
SELECT o.id, o.command, o.result, o.entries, coalesce(e.entries, 0) AS found,
       coalesce(e.charges, 0) AS charges, coalesce(e.holds, 0) AS holds,
       coalesce(e.adjustments, 0) AS adjustments,
       (o.user_id IS NOT NULL AND u.account_id IS NULL)
           OR (o.org_id IS NOT NULL AND g.account_id IS NULL) AS of_nobody,
       count(*) OVER () AS total
FROM outcomes o
LEFT JOIN (
    SELECT n.outcome_id, count(*) AS entries,
           count(*) FILTER (WHERE n.kind = 'usage' AND m.account_id IS NULL) AS charges,
           count(*) FILTER (WHERE n.kind = 'hold') AS holds,
           count(*) FILTER (WHERE n.kind = 'adjustment') AS adjustments
    FROM entries n LEFT JOIN members m ON m.account_id = n.account_id
    WHERE $1::timestamptz IS NULL OR n.at >= $1 GROUP BY n.outcome_id
) e ON e.outcome_id = o.id
LEFT JOIN subjects u ON u.account_id = o.user_id
LEFT JOIN subjects g ON g.account_id = o.org_id
WHERE ($1::timestamptz IS NULL OR o.at >= $1)
  AND (o.entries <> coalesce(e.entries, 0)
       OR (o.result = 'charged') <> (coalesce(e.charges, 0) = 1)
       OR (coalesce(e.holds, 0) > 0 AND o.result NOT IN ('initiated', 'reserved'))
       OR (o.command IN ('set_balance', 'revoke') AND coalesce(e.adjustments, 0) <> 1)
       OR (o.user_id IS NOT NULL AND u.account_id IS NULL)
       OR (o.org_id IS NOT NULL AND g.account_id IS NULL))
ORDER BY o.id LIMIT 100;

-- name: outcome_seals
-- Every column of outcomes, in the order of the seal. A time that no Python has breaks the seal.
SELECT id, event_key, usage_key, fingerprint, command, result, entries, user_id, org_id,
       CASE WHEN at BETWEEN '0001-01-02+0' AND '9999-12-30+0' THEN at ELSE 'epoch' END AS at,
       body, batch_size, calls, seal
FROM outcomes WHERE $1::timestamptz IS NULL OR at >= $1;

-- name: incomplete_batches
SELECT id >> 14 AS tx, min(id) AS id, max(batch_size) AS batch_size, count(*) AS found
FROM outcomes WHERE $1::timestamptz IS NULL OR at >= $1
GROUP BY id >> 14 HAVING count(*) <> max(batch_size) ORDER BY 1 LIMIT 100;

-- name: prices
-- Usage of phases, priced again from the version that the entry names.
SELECT e.id, e.account_id, e.sequence, e.price_version, e.phase, e.units,
       e.debt_delta::numeric - e.amount AS charged, price.micro * e.units AS should,
       count(*) OVER () AS total
FROM entries e
JOIN price_versions v ON v.version = e.price_version
CROSS JOIN LATERAL (
    SELECT CASE WHEN jsonb_typeof(v.book -> 'phases' -> e.phase -> 'credits') = 'number'
                THEN (v.book -> 'phases' -> e.phase ->> 'credits')::numeric * 1000000 END AS micro
) price
WHERE e.kind = 'usage' AND e.phase IS NOT NULL AND NOT e.byok
  AND NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id)
  AND ($1::timestamptz IS NULL OR e.at >= $1)
  AND (price.micro * e.units) IS DISTINCT FROM (e.debt_delta::numeric - e.amount)
ORDER BY e.id LIMIT 100;

-- name: holds
-- What entries reserved, settled and released for each hold, against its pipeline. A pipeline_id
-- that was used anew has the row of its last run only; the holds before must be empty.
WITH moved AS (
    SELECT hold_id, account_id, sum(held_delta)::bigint AS remaining,
           (sum(held_delta) FILTER (WHERE kind = 'hold'))::bigint AS amount
    FROM entries
    WHERE (hold_id IS NOT NULL OR held_delta <> 0)
      AND ($1::timestamptz IS NULL OR account_id IN (
          SELECT id FROM accounts WHERE last_at >= $1
          UNION SELECT account_id FROM entries WHERE at >= $1))
    GROUP BY hold_id, account_id
), held AS (
    SELECT p.hold_id, h.account_id AS payer_id, p.pipeline_key, p.remaining, p.amount, p.state
    FROM pipelines p CROSS JOIN LATERAL (VALUES (p.payer_id), (p.member_id)) AS h (account_id)
    WHERE p.hold_id IS NOT NULL AND h.account_id IS NOT NULL
      AND ($1::timestamptz IS NULL OR h.account_id IN (
          SELECT id FROM accounts WHERE last_at >= $1
          UNION SELECT account_id FROM entries WHERE at >= $1))
)
SELECT coalesce(p.hold_id, m.hold_id) AS hold_id, coalesce(p.payer_id, m.account_id) AS account_id,
       p.pipeline_key, p.remaining, p.amount, p.state, m.account_id IS NULL AS without_entries,
       m.remaining AS by_entries, m.amount AS amount_by_entries, count(*) OVER () AS total
FROM held p
FULL JOIN moved m ON m.hold_id = p.hold_id AND m.account_id = p.payer_id
WHERE m.account_id IS NULL OR (p.hold_id IS NULL AND m.remaining <> 0) OR m.hold_id IS NULL
   OR p.remaining <> m.remaining OR p.amount <> m.amount OR (p.hold_id IS NOT NULL AND m.amount IS NULL)
ORDER BY 1, 2 LIMIT 100;

-- name: requests
-- Pipelines against the outcome that let them in.
SELECT p.pipeline_key, p.outcome_id, o.id IS NULL AS missing, p.payer_id AS account_id,
       count(*) OVER () AS total
FROM pipelines p LEFT JOIN outcomes o ON o.id = p.outcome_id
WHERE ($1::timestamptz IS NULL OR o.at IS NULL OR o.at >= $1)
  AND (o.id IS NULL OR o.result NOT IN ('initiated', 'reserved') OR o.user_id <> p.user_id
       OR o.org_id IS DISTINCT FROM p.org_id
       OR o.body -> 'items' IS DISTINCT FROM to_jsonb(p.items)
       OR o.body -> 'phases' IS DISTINCT FROM p.phases
       OR o.body -> 'pruned' IS DISTINCT FROM p.pruned
       OR o.body -> 'reserved' IS DISTINCT FROM to_jsonb(p.amount)
       OR o.body ->> 'hold_id' IS DISTINCT FROM p.hold_id::text
       OR (p.hold_id IS NOT NULL
           AND (o.body -> 'payer' IS DISTINCT FROM to_jsonb(p.payer_id)
                OR o.body -> 'price_version' IS DISTINCT FROM to_jsonb(p.price_version))))
ORDER BY p.pipeline_key LIMIT 100;

-- name: refs
-- What callers called things, to be hashed again.
SELECT r.outcome_id, o.id IS NULL AS missing, s.source, r.event_id, r.usage_id, r.pipeline_id,
       o.event_key, o.usage_key, o.command, p.pipeline_key
FROM refs r
LEFT JOIN outcomes o ON o.id = r.outcome_id
LEFT JOIN sources s ON s.id = r.source_id
LEFT JOIN pipelines p ON p.outcome_id = r.outcome_id
WHERE $1::timestamptz IS NULL OR o.at IS NULL OR o.at >= $1;

-- name: checkpoints
-- $1 commitments or NULL, $2 account ids or NULL, $3 sequences, $4 hashes; one row for each, in
-- order. A name that was erased may have come again as a new account: then the one that fits.
SELECT f.account_id, f.newest, f.id, f.hash, f.balance, f.held, f.debt
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bytea[])
    WITH ORDINALITY AS w (commitment, account_id, sequence, hash, n)
LEFT JOIN LATERAL (
    SELECT c.account_id, a.sequence AS newest, e.id, e.hash, e.balance, e.held, e.debt
    FROM (SELECT account_id FROM subjects WHERE commitment = w.commitment
          UNION ALL SELECT w.account_id WHERE w.account_id IS NOT NULL) c
    LEFT JOIN accounts a ON a.id = c.account_id
    LEFT JOIN entries e ON e.account_id = c.account_id AND e.sequence = w.sequence
    ORDER BY e.hash IS NOT DISTINCT FROM w.hash DESC, e.id IS NULL, a.id IS NULL, c.account_id DESC
    LIMIT 1
) f ON true
ORDER BY w.n;

-- name: recoveries
SELECT epoch, from_tx, found_at, detail FROM recoveries ORDER BY epoch;

-- name: subjects
SELECT account_id, coalesce(subject, 'erased:' || account_id) AS subject FROM subjects
WHERE account_id = ANY ($1::bigint[]);

-- name: triggers
-- Each append-only table, and whatever inherits from it, with its trigger as it is now. Of two of
-- them some columns, and no other, can be erased: there the trigger names all the rest.
WITH RECURSIVE tables AS (
    SELECT to_regclass(name)::oid AS id, name, string_to_array(erasable, ' ')::name[] AS erasable
    FROM (VALUES ('entries', NULL), ('outcomes', NULL), ('price_versions', NULL),
                 ('grants', 'allocated_by notes'), ('audit', 'actor')) AS t (name, erasable)
    UNION ALL
    SELECT i.inhrelid, i.inhrelid::regclass::text, t.erasable
    FROM pg_inherits i JOIN tables t ON i.inhparent = t.id
)
SELECT t.name, g.tgenabled::text AS enabled,
       -- before (2), delete (8), update (16), truncate (32); for each statement, without condition
       g.tgtype = 58 AND g.tgqual IS NULL AND (g.tgattr = '' OR NOT EXISTS (
           SELECT FROM pg_attribute a
           WHERE a.attrelid = t.id AND a.attnum > 0 AND NOT a.attisdropped
             AND a.attname <> ALL (coalesce(t.erasable, '{}'))
             AND a.attnum <> ALL (g.tgattr::smallint[]))) AS complete,
       p.prosrc ~ 'RAISE EXCEPTION' AND p.prosrc !~* '\mreturn\M' AS refuses
FROM tables t
LEFT JOIN pg_trigger g ON g.tgrelid = t.id AND g.tgname = 'append_only' AND NOT g.tgisinternal
LEFT JOIN pg_proc p ON p.oid = g.tgfoid
ORDER BY t.name;

-- name: privileges
-- What the application's role may do to the tables that never change.
SELECT name, privilege
FROM unnest(ARRAY['entries', 'outcomes', 'price_versions', 'grants', 'audit']) AS name,
     unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS privilege
WHERE has_table_privilege($1, name, privilege)
   OR (privilege = 'UPDATE' AND has_any_column_privilege($1, name, privilege))
ORDER BY 1, 2;

-- name: unpriced_count
SELECT count(*) FROM unpriced;

-- name: unpriced
SELECT outcome_id, occurred_at, phase, provider, model, units, input_tokens, output_tokens
FROM unpriced ORDER BY outcome_id LIMIT 20;

-- name: state
SELECT (SELECT count(*) FROM pipelines WHERE state IN ('live', 'closing')) AS live_holds,
       (SELECT count(*) FROM pipelines
        WHERE state IN ('live', 'closing') AND remaining = 0) AS live_holds_used_up,
       (SELECT coalesce(sum(remaining), 0)::bigint FROM pipelines
        WHERE state IN ('live', 'closing')) AS held_micro,
       (SELECT count(*) FROM accounts WHERE debt > 0) AS accounts_in_debt,
       (SELECT coalesce(sum(debt), 0)::bigint FROM accounts) AS debt_micro,
       (SELECT count(*) FROM outbox) AS outbox_waiting;
