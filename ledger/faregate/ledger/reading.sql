-- What people and programs read of the ledger. `$n` are the driver's parameters; periods are
-- ranges of sequences, which every account has an index for.

-- name: outcome
SELECT id, command, result, at, user_id, org_id, body FROM outcomes WHERE id = $1;

-- name: outcome_of_key
SELECT id, command, result, at, user_id, org_id, body FROM outcomes WHERE event_key = $1;

-- name: outcomes_of_usage
-- $1 usage keys.
SELECT id, event_key, usage_key, command, result FROM outcomes WHERE usage_key = ANY ($1::uuid[]);

-- name: outcomes_of_reference
-- What callers named so in other commands than usage (deductions, holds). Reads the whole of refs.
SELECT o.id, o.event_key, o.command, o.result, s.source
FROM refs r JOIN outcomes o ON o.id = r.outcome_id JOIN sources s ON s.id = r.source_id
WHERE r.usage_id = $1 AND o.command IN ('deduct', 'settle') AND o.result = 'charged'
ORDER BY o.id;

-- name: charged
SELECT id, event_key, command, result FROM outcomes WHERE id = $1;

-- name: charge_of_key
SELECT id, event_key, command, result FROM outcomes WHERE event_key = $1;

-- name: outcome_of_entry
SELECT o.id, o.event_key, o.command, o.result, e.kind
FROM entries e JOIN outcomes o ON o.id = e.outcome_id WHERE e.id = $1;

-- name: charge
-- The usage entries of an outcome ($1): its payer's, and the member's whose allocation went down.
SELECT e.id, e.account_id, e.amount, e.debt_delta, e.user_id, e.org_id, e.grants, e.balance
FROM entries e
WHERE e.id >= ($1::bigint >> 14) << 14 AND e.id < (($1::bigint >> 14) + 1) << 14
  AND e.outcome_id = $1 AND e.kind = 'usage'
ORDER BY e.id;

-- name: grant_terms
-- $1 account, $2 numbers of grants: as the entries that made them say.
SELECT sequence AS number, priority, expires_at FROM entries
WHERE account_id = $1 AND sequence = ANY ($2::bigint[]);

-- name: snapshot
-- $1 subjects; $2 and $3 orgs and users, alike, whose members' accounts matter: what decisions about
-- them would rest on. `org` and `user` are those of a member's account.
SELECT a.id, s.subject, a.balance, a.held, a.debt, a.sequence, a.last_at, a.grants, a.granted,
       a.plan, NULL AS org, NULL AS "user"
FROM subjects s
JOIN accounts a ON a.id = s.account_id
WHERE s.subject = ANY ($1::text[])
UNION ALL
SELECT a.id, s.subject, a.balance, a.held, a.debt, a.sequence, a.last_at, a.grants, a.granted,
       a.plan, w.org, w."user"
FROM unnest($2::text[], $3::text[]) AS w (org, "user")
JOIN subjects o ON o.subject = w.org
JOIN subjects u ON u.subject = w."user"
JOIN members m ON m.org_id = o.account_id AND m.user_id = u.account_id
JOIN accounts a ON a.id = m.account_id
JOIN subjects s ON s.account_id = m.account_id;

-- name: account
SELECT a.id, a.balance, a.held, a.debt, a.sequence, a.grants, a.granted, a.plan, a.last_at,
       s.subject, s.created_at, coalesce(a.due_at <= clock_timestamp(), false) AS due,
       clock_timestamp() AS now
FROM accounts a JOIN subjects s ON s.account_id = a.id WHERE s.subject = $1;

-- name: sequence_before
-- The last sequence of an account ($1) before a time ($2); 0 for none. Time only rises with the
-- sequence, and sequences have no gaps: halving finds it in the index that is there.
WITH RECURSIVE halved (low, high) AS (
    SELECT 0::bigint, sequence FROM accounts WHERE id = $1
    UNION ALL
    SELECT CASE WHEN e.at < $2 THEN e.sequence ELSE h.low END,
           CASE WHEN e.at < $2 THEN h.high ELSE e.sequence - 1 END
    FROM halved h
    JOIN entries e ON e.account_id = $1 AND e.sequence = (h.low + h.high + 1) / 2
    WHERE h.low < h.high
)
SELECT low FROM halved WHERE low = high;

-- name: entry
SELECT balance, held, debt, sequence, at FROM entries WHERE account_id = $1 AND sequence = $2;

-- name: made_grants
SELECT id, number, at, kind, amount, priority, expires_at, source, allocated_by, notes, layer, arm
FROM grants WHERE account_id = $1 ORDER BY number;

-- name: named_grants
SELECT id, number, kind, amount, expires_at, source FROM grants
WHERE account_id = $1 AND number = ANY ($2::bigint[]);

-- name: grants_at
-- What was left of each grant of an account ($1) after a sequence ($2).
SELECT e.grants[n] AS number, sum(e.grants[n + 1])::bigint AS remaining,
       sum(e.grants[n + 2])::bigint AS held
FROM entries e CROSS JOIN LATERAL generate_series(1, cardinality(e.grants), 3) AS n
WHERE e.account_id = $1 AND e.sequence <= $2
GROUP BY 1;

-- name: history
-- $2 entries before this sequence, $3 entries after that one.
SELECT e.*, r.event_id, r.pipeline_id, r.usage_id, r.correlation_id
FROM entries e LEFT JOIN refs r ON r.outcome_id = e.outcome_id
WHERE e.account_id = $1 AND e.sequence < $2 AND e.sequence > $3
ORDER BY e.sequence DESC LIMIT $4;

-- name: members
SELECT m.account_id, u.subject AS user_subject, m.user_id, a.balance, a.held, a.granted, a.plan,
       m.created_at, a.due_at <= clock_timestamp() AS due, s.subject
FROM members m
JOIN subjects u ON u.account_id = m.user_id
JOIN subjects s ON s.account_id = m.account_id
JOIN accounts a ON a.id = m.account_id
WHERE m.org_id = $1 AND ($2::bigint IS NULL OR m.user_id = $2)
ORDER BY m.user_id;

-- name: usage
-- What an account ($1) was charged after one sequence ($2), up to another ($3), by what is asked
-- for ($4 to $7). A refund counts for what the refunded charge was for, at the time of the refund.
WITH lines AS (
    SELECT e.user_id, e.provider, e.model, e.phase, (e.at AT TIME ZONE 'UTC')::date AS day,
           1 AS events, e.debt_delta - e.amount AS charged, 0 AS refunded,
           coalesce(e.units, 0) AS units, coalesce(e.input_tokens, 0) AS input_tokens,
           coalesce(e.output_tokens, 0) AS output_tokens
    FROM entries e
    WHERE e.account_id = $1 AND e.sequence > $2 AND e.sequence <= $3 AND e.kind = 'usage'
    UNION ALL
    SELECT e.user_id, c.provider, c.model, c.phase, (e.at AT TIME ZONE 'UTC')::date,
           0, 0, e.amount - e.debt_delta, 0, 0, 0
    FROM entries e
    JOIN outcomes o ON o.id = e.outcome_id
    CROSS JOIN LATERAL (SELECT (o.body ->> 'of')::bigint AS of) AS b
    LEFT JOIN entries c ON c.id >= (b.of >> 14) << 14 AND c.id < ((b.of >> 14) + 1) << 14
        AND c.outcome_id = b.of AND c.account_id = e.account_id AND c.kind = 'usage'
    WHERE e.account_id = $1 AND e.sequence > $2 AND e.sequence <= $3 AND e.kind = 'refund'
)
SELECT CASE WHEN $4::boolean THEN user_id END AS user_id,
       CASE WHEN $5::boolean THEN provider END AS provider,
       CASE WHEN $5::boolean THEN model END AS model,
       CASE WHEN $6::boolean THEN phase END AS phase,
       CASE WHEN $7::boolean THEN day END AS day,
       sum(events)::bigint AS events, sum(charged)::bigint AS charged,
       sum(refunded)::bigint AS refunded, sum(units)::bigint AS units,
       sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens
FROM lines
GROUP BY 1, 2, 3, 4, 5
ORDER BY 5, 1, 2, 3, 4;

-- name: audit
-- $1 an account or NULL, $2 acts before this one.
SELECT id, at, actor, action, result, account_id, outcome_id, metadata FROM audit
WHERE ($1::bigint IS NULL OR account_id = $1) AND id < $2
ORDER BY id DESC LIMIT $3;

-- name: refunds_of
-- $1 the usage keys that refunds of charges have: who asked for them, and what it was charged for.
SELECT o.id, o.at, a.actor, (o.body ->> 'of')::bigint AS charge_id,
       (o.body ->> 'amount')::bigint AS amount, c.usage_id
FROM outcomes o
LEFT JOIN audit a ON a.outcome_id = o.id
LEFT JOIN refs c ON c.outcome_id = (o.body ->> 'of')::bigint
WHERE o.usage_key = ANY ($1::uuid[])
ORDER BY o.id;

-- name: unpriced_usage
-- Usage that waits for a price, by its outcome ($1).
SELECT units, provider, input_tokens, output_tokens FROM unpriced WHERE outcome_id = $1;

-- name: charges_of_refunds
-- What refunds ($1, outcomes) gave back: the outcome of the charge, and what callers named it.
SELECT o.id, (o.body ->> 'of')::bigint AS charge_id, c.usage_id, c.pipeline_id
FROM outcomes o LEFT JOIN refs c ON c.outcome_id = (o.body ->> 'of')::bigint
WHERE o.id = ANY ($1::bigint[]) AND o.command = 'refund';

-- name: lock_increment
-- Also the lock that lets one version of the price book follow another.
SELECT value, updated_by, updated_at, clock_timestamp() AS now FROM system_settings
WHERE key = 'credit_minimum_increment' FOR UPDATE;

-- name: increment
SELECT value, updated_by, updated_at FROM system_settings WHERE key = 'credit_minimum_increment';

-- name: set_increment
UPDATE system_settings SET value = $1, updated_by = $2, updated_at = clock_timestamp()
WHERE key = 'credit_minimum_increment';

-- name: fraud_reviews
-- Reviews of suspicions of fraud, oldest first.
SELECT at, actor, metadata FROM audit WHERE action = 'review_fraud' ORDER BY id;

-- name: busiest
-- The accounts of the newest entries ($1 of them), as they are now, the last one to move first.
SELECT s.subject, a.balance, a.held, a.debt, a.last_at
FROM (SELECT account_id, max(id) AS id FROM (SELECT account_id, id FROM entries ORDER BY id DESC LIMIT $1) n
      GROUP BY account_id) newest
JOIN accounts a ON a.id = newest.account_id
JOIN subjects s ON s.account_id = a.id
WHERE s.subject LIKE 'user:%' OR s.subject LIKE 'org:%'
ORDER BY newest.id DESC LIMIT $2;
