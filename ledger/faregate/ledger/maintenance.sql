-- The statements of rebuild, export, erase and simulate, by name.

-- name: lock_person
-- The account's row is the mutex: nothing is decided about them until this transaction ends.
SELECT a.id, a.debt FROM accounts a JOIN subjects s ON s.account_id = a.id
WHERE s.subject = $1 FOR UPDATE OF a;

-- name: still_named
-- Looked up again once locked: the lock may have waited for another erasure.
SELECT EXISTS (SELECT FROM subjects WHERE account_id = $1 AND subject = $2);

-- name: next_tx
-- Under the lock: all that was ever decided about the account has a lower number, and is there.
SELECT nextval('tx_seq');

-- name: live_holds
SELECT count(*) FROM pipelines
WHERE state IN ('live', 'closing') AND (user_id = $1 OR payer_id = $1 OR org_id = $1);

-- name: unannounced
-- Facts that the relay has not announced yet and that would lose the ids that their readers need.
SELECT count(*) FROM outbox b
JOIN outcomes o ON o.id >= b.tx << 14 AND o.id < (b.tx + 1) << 14
JOIN refs r ON r.outcome_id = o.id
WHERE (o.user_id = $1 OR o.org_id = $1) AND coalesce(r.pipeline_id, r.usage_id) IS NOT NULL;

-- name: erase_refs
-- $1 account, $2 the lowest id to look at (of outcomes and of entries alike). Commands about an account alone name it in `body`.
WITH theirs AS (
    SELECT id FROM outcomes
    WHERE id >= $2 AND (user_id = $1 OR org_id = $1 OR body -> 'account' = to_jsonb($1::bigint))
    UNION
    SELECT outcome_id FROM entries
    WHERE id >= $2 AND (account_id = $1 OR user_id = $1 OR org_id = $1)
)
UPDATE refs r SET event_id = NULL, pipeline_id = NULL, usage_id = NULL, batch_id = NULL,
    correlation_id = NULL, traceparent = NULL, tracestate = NULL
FROM theirs t
WHERE r.outcome_id = t.id
  AND num_nonnulls(r.event_id, r.pipeline_id, r.usage_id, r.batch_id, r.correlation_id,
                   r.traceparent, r.tracestate) > 0;

-- name: erase_own_grants
-- Those of the account, and what was allocated to or by it.
UPDATE grants SET allocated_by = NULL, notes = NULL
WHERE (account_id = $1
       OR account_id IN (SELECT account_id FROM members WHERE user_id = $1 OR org_id = $1))
  AND num_nonnulls(allocated_by, notes) > 0;

-- name: erase_allocator
UPDATE grants SET allocated_by = NULL WHERE allocated_by = ANY ($1::text[]);

-- name: erase_actor
UPDATE audit SET actor = NULL WHERE actor = ANY ($1::text[]);

-- name: erase_acting
-- Acts of theirs on other accounts: the caller's id is part of what an act over HTTP is called.
UPDATE refs r SET event_id = NULL, correlation_id = NULL, traceparent = NULL, tracestate = NULL
FROM audit a WHERE a.actor_key = ANY ($1::uuid[]) AND a.outcome_id = r.outcome_id
  AND num_nonnulls(r.event_id, r.correlation_id, r.traceparent, r.tracestate) > 0;

-- name: erase_setter
UPDATE system_settings SET updated_by = 'erased' WHERE updated_by = ANY ($1::text[]);

-- name: erase_sign_in
-- Who can sign in, by the embedded identity: the id without `user:`.
DELETE FROM users WHERE user_id = $1 RETURNING lower(email) AS email;

-- name: erase_invitations
DELETE FROM invitations WHERE email = ANY ($1::text[]) OR org_id = $2;

-- name: erase_inviter
UPDATE invitations SET invited_by = 'erased' WHERE invited_by = ANY ($1::text[]);

-- name: erase_founder
UPDATE org_names SET created_by = 'erased' WHERE created_by = ANY ($1::text[]);

-- name: erase_keys
-- Their own keys of providers: encrypted, and of no use to anybody else.
DELETE FROM byok_keys WHERE owner IN ($1, $2);

-- name: erase_lago
-- What Lago has said of their subscriptions, and that they are its customer.
WITH s AS (DELETE FROM lago_subscriptions WHERE subject = $1 RETURNING 1),
     t AS (DELETE FROM lago_tiers WHERE subject = $1 RETURNING 1),
     c AS (DELETE FROM lago_customers WHERE subject = $1 RETURNING 1)
SELECT (SELECT count(*) FROM s) + (SELECT count(*) FROM t) + (SELECT count(*) FROM c);

-- name: erase_org_name
DELETE FROM org_names WHERE org_id = $1;

-- name: erase_calls
-- $1 keyed hashes of who called, $2 their names, $3 the org that they are: what they were answered,
-- and where others' answers name them.
WITH own AS (DELETE FROM http_calls WHERE caller_key = ANY ($1::uuid[]) RETURNING 1),
     named AS (UPDATE http_calls SET answer = answer || '{"by": null}'
               WHERE answer ->> 'by' = ANY ($2::text[]) AND caller_key <> ALL ($1::uuid[])
               RETURNING 1),
     joined AS (UPDATE http_calls SET answer = answer || '{"org": null}'
                WHERE answer ->> 'org' = $3 AND caller_key <> ALL ($1::uuid[]) RETURNING 1)
SELECT (SELECT count(*) FROM own) + (SELECT count(*) FROM named) + (SELECT count(*) FROM joined);

-- name: erase_name
-- The commitment stays: what was announced under the name is found by it.
UPDATE subjects SET kind = split_part(subject, ':', 1), subject = NULL WHERE account_id = $1;

-- name: one_erasure
-- Erasures touch rows of other people (what these allocated to each other), so they go in turn.
SELECT erasures FROM ledger FOR UPDATE;

-- name: count_erasure
UPDATE ledger SET erasures = erasures + 1;

-- name: erased_before
SELECT account_id FROM subjects WHERE commitment = $1 AND subject IS NULL ORDER BY account_id;

-- name: appliers
-- Who applied prices is part of what never changes.
SELECT count(*) FROM price_versions WHERE applied_by = ANY ($1::text[]);

-- name: lock_rebuild
SELECT pg_try_advisory_xact_lock(hashtextextended('faregate.rebuild', 0));

-- name: foreign_schema
-- A schema of that name that was not made by rebuild is not dropped.
SELECT EXISTS (
    SELECT FROM pg_namespace
    WHERE nspname = 'rebuilt' AND obj_description(oid, 'pg_namespace') IS DISTINCT FROM 'faregate rebuild'
);

-- name: rebuilt_schema
DROP SCHEMA IF EXISTS rebuilt CASCADE;
CREATE SCHEMA rebuilt;
COMMENT ON SCHEMA rebuilt IS 'faregate rebuild';
CREATE UNLOGGED TABLE rebuilt.accounts (
    id bigint PRIMARY KEY, balance bigint NOT NULL, held bigint NOT NULL, debt bigint NOT NULL,
    sequence bigint NOT NULL, granted bigint NOT NULL, last_at timestamptz NOT NULL,
    grants jsonb NOT NULL
);
CREATE UNLOGGED TABLE rebuilt.grants (
    account_id bigint, number bigint, kind text NOT NULL, amount bigint NOT NULL,
    priority integer NOT NULL, expires_at timestamptz, remaining bigint NOT NULL,
    held bigint NOT NULL, PRIMARY KEY (account_id, number)
);
CREATE UNLOGGED TABLE rebuilt.holds (
    hold_id uuid, account_id bigint, remaining bigint NOT NULL, pins jsonb NOT NULL,
    PRIMARY KEY (hold_id, account_id)
);
CREATE UNLOGGED TABLE rebuilt.allocations (
    account_id bigint PRIMARY KEY, org_id bigint NOT NULL, user_id bigint NOT NULL,
    allocated bigint NOT NULL, used bigint NOT NULL, remaining bigint NOT NULL, held bigint NOT NULL
);
CREATE UNLOGGED TABLE rebuilt.quotas (
    account_id bigint PRIMARY KEY, period_start timestamptz, calls bigint NOT NULL, call_limit bigint
);

-- name: rebuild_entries
SELECT account_id, sequence, at, kind, amount, held_delta, debt_delta, balance, held, debt, hold_id,
       grants, priority, expires_at
FROM entries ORDER BY account_id, sequence;

-- name: rebuild_count
SELECT count(*) FROM entries;

-- name: rebuild_allocations
INSERT INTO rebuilt.allocations
SELECT a.id, m.org_id, m.user_id, a.granted, a.granted - a.balance, a.balance - a.held, a.held
FROM rebuilt.accounts a JOIN members m ON m.account_id = a.id;

-- name: compared_accounts
-- Also those that no entry has moved yet, and members' allocations.
SELECT count(*) FROM accounts a FULL JOIN rebuilt.accounts r ON r.id = a.id;

-- name: rebuilt_holds
-- A hold on an org's member is there twice: the org's and the member's.
SELECT count(DISTINCT hold_id) FROM rebuilt.holds;

-- name: rebuild_quotas
-- Calls are counted from the start of the running period; a change of tier begins one in the midst
-- of a transaction, whose later calls alone are in it.
INSERT INTO rebuilt.quotas
WITH started AS (
    SELECT a.id, p.start, coalesce(max(t.id), 0) AS after
    FROM accounts a
    CROSS JOIN LATERAL (SELECT moment(a.plan ->> 'period_start') AS start) p
    LEFT JOIN outcomes t ON t.command = 'set_tier' AND t.result = 'changed'
        AND (t.body ->> 'account')::bigint = a.id AND t.at = p.start
    GROUP BY a.id, p.start
), counted AS (
    SELECT o.user_id, sum(o.calls)::bigint AS calls
    FROM outcomes o JOIN started s ON s.id = o.user_id
    WHERE o.calls > 0 AND (s.start IS NULL OR o.at >= s.start) AND o.id > s.after
    GROUP BY o.user_id
), allowed AS (
    SELECT DISTINCT ON (1) (body ->> 'account')::bigint AS id, (body ->> 'calls')::bigint AS calls
    FROM outcomes WHERE command = 'set_quota' ORDER BY 1, outcomes.id DESC
)
SELECT s.id, s.start, coalesce(c.calls, 0), q.calls
FROM started s LEFT JOIN counted c ON c.user_id = s.id LEFT JOIN allowed q ON q.id = s.id;

-- name: differing_accounts
-- This and the next: what differs, with both values as text, and how many there are in `total`.
SELECT coalesce(a.id, r.id) AS account_id, v.what, v.live, v.rebuilt, count(*) OVER () AS total
FROM accounts a FULL JOIN rebuilt.accounts r ON r.id = a.id
CROSS JOIN LATERAL (VALUES
    ('balance', a.balance::text, coalesce(r.balance, 0)::text),
    ('held', a.held::text, coalesce(r.held, 0)::text),
    ('debt', a.debt::text, coalesce(r.debt, 0)::text),
    ('sequence', a.sequence::text, coalesce(r.sequence, 0)::text),
    ('granted', a.granted::text, coalesce(r.granted, 0)::text),
    ('last_at', a.last_at::text, coalesce(r.last_at, 'epoch')::text),
    ('burn order of grants', jsonb_path_query_array(a.grants, '$[*][0]')::text,
     jsonb_path_query_array(coalesce(r.grants, '[]'), '$[*][0]')::text)
) AS v (what, live, rebuilt)
WHERE v.live IS DISTINCT FROM v.rebuilt
ORDER BY 1, 2 LIMIT $1;

-- name: differing_grants
-- What is left of grants: of the account's row against the entries.
WITH live AS (
    SELECT a.id AS account_id, (g ->> 0)::bigint AS number, (g ->> 1)::bigint AS remaining,
           (g ->> 2)::bigint AS held, (g ->> 3)::integer AS priority,
           timestamptz 'epoch' + (g ->> 4)::bigint * interval '1 microsecond' AS expires_at
    FROM accounts a CROSS JOIN LATERAL jsonb_array_elements(a.grants) AS g
), made AS (
    SELECT * FROM rebuilt.grants WHERE remaining <> 0 OR held <> 0
)
SELECT coalesce(l.account_id, r.account_id) AS account_id,
       format('grant %s: %s', coalesce(l.number, r.number), v.what) AS what,
       v.live, v.rebuilt, count(*) OVER () AS total
FROM live l FULL JOIN made r ON r.account_id = l.account_id AND r.number = l.number
CROSS JOIN LATERAL (VALUES
    ('remaining', l.remaining::text, r.remaining::text), ('held', l.held::text, r.held::text),
    ('priority', l.priority::text, r.priority::text),
    ('expires_at', l.expires_at::text, r.expires_at::text)
) AS v (what, live, rebuilt)
WHERE v.live IS DISTINCT FROM v.rebuilt
ORDER BY 1, 2 LIMIT $1;

-- name: differing_terms
-- What grants were when they were made: as they are kept for people, against the entries.
SELECT coalesce(g.account_id, r.account_id) AS account_id,
       format('grant %s as made: %s', coalesce(g.number, r.number), v.what) AS what,
       v.live, v.rebuilt, count(*) OVER () AS total
FROM grants g FULL JOIN rebuilt.grants r ON r.account_id = g.account_id AND r.number = g.number
CROSS JOIN LATERAL (VALUES
    ('kind', g.kind, r.kind), ('amount', g.amount::text, r.amount::text),
    ('priority', g.priority::text, r.priority::text),
    ('expires_at', g.expires_at::text, r.expires_at::text)
) AS v (what, live, rebuilt)
WHERE v.live IS DISTINCT FROM v.rebuilt
ORDER BY 1, 2 LIMIT $1;

-- name: differing_holds
WITH live AS (
    SELECT p.hold_id, h.account_id, p.remaining, h.pins
    FROM pipelines p CROSS JOIN LATERAL (
        VALUES (p.payer_id, p.pins), (p.member_id, p.member_pins)) AS h (account_id, pins)
    WHERE p.hold_id IS NOT NULL AND h.account_id IS NOT NULL
      AND (p.remaining <> 0 OR h.pins <> '[]')
)
SELECT coalesce(l.account_id, r.account_id) AS account_id,
       format('hold %s: %s', coalesce(l.hold_id, r.hold_id), v.what) AS what,
       v.live, v.rebuilt, count(*) OVER () AS total
FROM live l FULL JOIN rebuilt.holds r ON r.hold_id = l.hold_id AND r.account_id = l.account_id
CROSS JOIN LATERAL (VALUES
    ('remaining', l.remaining::text, r.remaining::text), ('pins', l.pins::text, r.pins::text)
) AS v (what, live, rebuilt)
WHERE v.live IS DISTINCT FROM v.rebuilt
ORDER BY 1, 2 LIMIT $1;

-- name: differing_quotas
SELECT a.id AS account_id, v.what, v.live, v.rebuilt, count(*) OVER () AS total
FROM accounts a JOIN rebuilt.quotas r ON r.account_id = a.id
CROSS JOIN LATERAL (VALUES
    ('calls in the period', coalesce(a.plan ->> 'calls', '0'), r.calls::text),
    ('calls allowed', a.plan ->> 'call_limit', r.call_limit::text)
) AS v (what, live, rebuilt)
WHERE v.live IS DISTINCT FROM v.rebuilt
ORDER BY 1, 2 LIMIT $1;

-- name: names_of_accounts
-- For people: a member's account by the names of org and member.
SELECT s.account_id, CASE WHEN m.account_id IS NULL THEN subject_of(s.account_id, s.subject)
       ELSE subject_of(m.user_id, u.subject) || ' in ' || subject_of(m.org_id, o.subject) END AS name
FROM subjects s
LEFT JOIN members m ON m.account_id = s.account_id
LEFT JOIN subjects u ON u.account_id = m.user_id
LEFT JOIN subjects o ON o.account_id = m.org_id
WHERE s.account_id = ANY ($1::bigint[]);

-- name: export_entries
-- $1 account or NULL, $2 and $3 times or NULL, $4 whether to give allocations too. In the order of
-- ids: that in which transactions took their locks, the same each time. A refund names the charge
-- that it gave back: its outcome, and what callers named it.
SELECT e.id, e.account_id, subject_of(e.account_id, s.subject) AS account, e.sequence, e.at, e.kind,
       e.amount, e.held_delta, e.debt_delta, e.balance, e.held, e.debt,
       subject_of(coalesce(e.user_id, m.user_id), u.subject) AS user,
       subject_of(coalesce(e.org_id, m.org_id), o.subject) AS org,
       coalesce(r.pipeline_id, f.pipeline_id) AS pipeline_id,
       coalesce(r.usage_id, f.usage_id) AS usage_id, f.charge_id,
       e.hold_id, e.phase, e.provider, e.model, e.units, e.input_tokens,
       e.output_tokens, e.byok, e.occurred_at, e.price_version, e.tier, e.reason, e.grants,
       e.priority, e.expires_at, e.alert, r.event_id, r.correlation_id, e.outcome_id, e.hash
FROM entries e
LEFT JOIN members m ON m.account_id = e.account_id
LEFT JOIN subjects s ON s.account_id = e.account_id
LEFT JOIN subjects u ON u.account_id = coalesce(e.user_id, m.user_id)
LEFT JOIN subjects o ON o.account_id = coalesce(e.org_id, m.org_id)
LEFT JOIN refs r ON r.outcome_id = e.outcome_id
LEFT JOIN (
    SELECT o.id, (o.body ->> 'of')::bigint AS charge_id, c.pipeline_id, c.usage_id
    FROM outcomes o LEFT JOIN refs c ON c.outcome_id = (o.body ->> 'of')::bigint
    WHERE o.command = 'refund'
) f ON f.id = e.outcome_id AND e.kind = 'refund'
WHERE ($1::bigint IS NULL OR e.account_id = $1)
  AND ($2::timestamptz IS NULL OR e.at >= $2) AND ($3::timestamptz IS NULL OR e.at < $3)
  AND ($4::boolean OR m.account_id IS NULL)
ORDER BY e.id;

-- name: export_count
SELECT count(*) FROM entries e LEFT JOIN members m ON m.account_id = e.account_id
WHERE ($1::bigint IS NULL OR e.account_id = $1)
  AND ($2::timestamptz IS NULL OR e.at >= $2) AND ($3::timestamptz IS NULL OR e.at < $3)
  AND ($4::boolean OR m.account_id IS NULL);

-- name: statement
-- $1 account or NULL for all that have credits (allocations are limits on an org's), $2 and $3 times
-- or NULL: what entries before $3 came to, those before $2 apart.
SELECT e.kind, CASE WHEN e.kind IN ('purchase', 'bonus', 'adjustment') THEN e.reason END AS reason,
       coalesce(e.at < $2::timestamptz, false) AS earlier, count(*) AS entries,
       sum(e.amount)::bigint AS balance, sum(e.held_delta)::bigint AS held,
       sum(e.debt_delta)::bigint AS debt
FROM entries e
WHERE ($1::bigint IS NULL OR e.account_id = $1)
  AND ($3::timestamptz IS NULL OR e.at < $3)
  AND ($1::bigint IS NOT NULL OR NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id))
GROUP BY 1, 2, 3;

-- name: statement_of_accounts
-- $1 as above: what the accounts themselves say now.
SELECT count(*) AS accounts, coalesce(sum(a.balance), 0)::bigint AS balance,
       coalesce(sum(a.held), 0)::bigint AS held, coalesce(sum(a.debt), 0)::bigint AS debt
FROM accounts a
WHERE ($1::bigint IS NULL OR a.id = $1)
  AND ($1::bigint IS NOT NULL OR NOT EXISTS (SELECT FROM members m WHERE m.account_id = a.id));

-- name: erased_account
-- An erased account by its number, for whoever asks for erased:<n>.
SELECT account_id FROM subjects WHERE account_id = $1 AND subject IS NULL;

-- name: simulate_usage
-- $1 and $2 times or NULL: what was charged then, and usage that still waits for a price. What was
-- refunded is left out. `tier`: by which it was priced, else the one that the user is on now.
SELECT e.account_id, e.at, e.price_version, e.phase, e.provider, e.model, e.units, e.input_tokens,
       e.output_tokens, e.byok, coalesce(e.tier, tier_of(u.plan)) AS tier,
       e.debt_delta - e.amount AS charged
FROM entries e LEFT JOIN accounts u ON u.id = e.user_id
WHERE e.kind = 'usage'
  AND ($1::timestamptz IS NULL OR e.at >= $1) AND ($2::timestamptz IS NULL OR e.at < $2)
  AND NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id)
  AND NOT EXISTS (SELECT FROM outcomes f WHERE f.command = 'refund'
                  AND (f.body ->> 'of')::bigint = e.outcome_id)
UNION ALL
SELECT coalesce(p.payer_id, w.org_id, w.user_id), w.occurred_at, NULL, w.phase, w.provider, w.model,
       w.units, w.input_tokens, w.output_tokens, false, tier_of(u.plan), 0
FROM unpriced w
LEFT JOIN pipelines p ON p.pipeline_key = w.pipeline_key AND p.user_id = w.user_id
LEFT JOIN accounts u ON u.id = w.user_id
WHERE ($1::timestamptz IS NULL OR w.at >= $1) AND ($2::timestamptz IS NULL OR w.at < $2);

-- name: simulate_requests
-- Requests that were let in then, with what their payer (and the member whose allocation was held
-- as well) had before the hold. One that a live hold answered reserved nothing and is left out.
SELECT o.id, o.at, o.user_id, o.org_id, o.body, r.pipeline_id, h.payer_had, h.member_had,
       g.plan ->> 'policy' = 'allocated' AS allocated, m.account_id AS member_id
FROM outcomes o
LEFT JOIN refs r ON r.outcome_id = o.id
LEFT JOIN accounts g ON g.id = o.org_id
LEFT JOIN members m ON m.org_id = o.org_id AND m.user_id = o.user_id
LEFT JOIN LATERAL (
    SELECT max(e.balance - e.held + e.held_delta) FILTER (WHERE e.account_id = (o.body ->> 'payer')::bigint)
               AS payer_had,
           max(e.balance - e.held + e.held_delta) FILTER (WHERE e.account_id = m.account_id)
               AS member_had
    FROM entries e
    WHERE e.id >= (o.id >> 14) << 14 AND e.id < ((o.id >> 14) + 1) << 14
      AND e.outcome_id = o.id AND e.kind = 'hold'
) h ON true
WHERE o.command = 'request' AND o.result = 'initiated'
  AND (h.payer_had IS NOT NULL OR (o.body ->> 'reserved')::bigint = 0)
  AND ($1::timestamptz IS NULL OR o.at >= $1) AND ($2::timestamptz IS NULL OR o.at < $2)
ORDER BY o.id;

-- name: simulate_count
SELECT (SELECT count(*) FROM entries WHERE kind = 'usage'
        AND ($1::timestamptz IS NULL OR at >= $1) AND ($2::timestamptz IS NULL OR at < $2))
     + (SELECT count(*) FROM outcomes WHERE command = 'request' AND result = 'initiated'
        AND ($1::timestamptz IS NULL OR at >= $1) AND ($2::timestamptz IS NULL OR at < $2));

-- name: had_before
-- What an account ($1) had before an outcome ($2): its outcomes only rise with the sequence, and
-- halving finds the last entry before it in the index that is there.
WITH RECURSIVE halved (low, high) AS (
    SELECT 0::bigint, sequence FROM accounts WHERE id = $1
    UNION ALL
    SELECT CASE WHEN e.outcome_id < $2 THEN e.sequence ELSE h.low END,
           CASE WHEN e.outcome_id < $2 THEN h.high ELSE e.sequence - 1 END
    FROM halved h
    JOIN entries e ON e.account_id = $1 AND e.sequence = (h.low + h.high + 1) / 2
    WHERE h.low < h.high
)
SELECT e.balance - e.held AS free, e.debt
FROM halved h JOIN entries e ON e.account_id = $1 AND e.sequence = h.low
WHERE h.low = h.high;
