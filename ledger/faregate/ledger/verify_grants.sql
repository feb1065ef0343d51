-- The statements of verify about grants, allocations, plans and refunds; see verify.sql for what is
-- the same in all of them. JSON that the ledger would not write is compared, never cast blindly.

-- name: grants
-- Grants against the entries that made them: those that have a priority. The grant that an entry
-- makes stands last among those that it moves.
SELECT coalesce(e.id, g.id) AS id, coalesce(e.account_id, g.account_id) AS account_id,
       coalesce(e.sequence, g.number) AS number, g.id IS NULL AS missing, e.id IS NULL AS made_by_none,
       array_remove(ARRAY[
           CASE WHEN g.account_id <> e.account_id THEN 'account_id' END,
           CASE WHEN g.number <> e.sequence THEN 'number' END,
           CASE WHEN g.at <> e.at THEN 'at' END,
           CASE WHEN g.kind <> e.kind THEN 'kind' END,
           CASE WHEN g.amount IS DISTINCT FROM e.amount THEN 'amount' END,
           CASE WHEN g.priority <> e.priority THEN 'priority' END,
           CASE WHEN g.expires_at IS DISTINCT FROM e.expires_at THEN 'expires_at' END], NULL) AS differ,
       count(*) OVER () AS total
FROM (SELECT * FROM grants WHERE $1::timestamptz IS NULL OR at >= $1) g
FULL JOIN (
    SELECT id, account_id, sequence, at, kind, grants[cardinality(grants) - 1] AS amount, priority,
           expires_at
    FROM entries WHERE priority IS NOT NULL AND ($1::timestamptz IS NULL OR at >= $1)
) e ON e.id = g.id
WHERE g.id IS NULL OR e.id IS NULL OR g.account_id <> e.account_id OR g.number <> e.sequence
   OR g.at <> e.at OR g.kind <> e.kind OR g.amount IS DISTINCT FROM e.amount
   OR g.priority <> e.priority OR g.expires_at IS DISTINCT FROM e.expires_at
ORDER BY 1 LIMIT 100;

-- name: pins
-- What each hold has pinned of its payer's grants, and of its member's, is what is left of it. A
-- part that is no amount makes the sum NaN, which is equal to nothing that is left.
SELECT pipeline_key, hold_id, account_id, remaining, pinned::text AS pinned, count(*) OVER () AS total
FROM (
    SELECT p.pipeline_key, p.hold_id, p.remaining, h.account_id, h.pins,
           (SELECT coalesce(sum(CASE WHEN jsonb_typeof(part -> 1) = 'number'
                                     THEN CASE WHEN (part ->> 1)::numeric > 0
                                               THEN (part ->> 1)::numeric ELSE 'NaN' END
                                     ELSE 'NaN' END), 0)
            FROM jsonb_array_elements(
                CASE jsonb_typeof(h.pins) WHEN 'array' THEN h.pins ELSE '[0]' END) AS part) AS pinned
    FROM pipelines p CROSS JOIN LATERAL
        (VALUES (p.payer_id, p.pins), (p.member_id, p.member_pins)) AS h (account_id, pins)
    WHERE $1::timestamptz IS NULL OR h.account_id IN (
        SELECT id FROM accounts WHERE last_at >= $1
        UNION SELECT account_id FROM entries WHERE at >= $1)
) pinned
WHERE pinned IS DISTINCT FROM CASE WHEN account_id IS NULL THEN 0 ELSE remaining END
ORDER BY 1, 3 LIMIT 100;

-- name: pinned_grants
-- What live holds have pinned of each grant is what that grant has held. Closed ones pin nothing
-- (`pins`), and a grant of an account that holds nothing holds nothing (its entries say so).
WITH pinned AS (
    SELECT h.account_id, part -> 0 AS number,
           sum(CASE WHEN jsonb_typeof(part -> 1) = 'number' THEN (part ->> 1)::numeric END) AS held
    FROM pipelines p CROSS JOIN LATERAL
        (VALUES (p.payer_id, p.pins), (p.member_id, p.member_pins)) AS h (account_id, pins)
    CROSS JOIN LATERAL jsonb_array_elements(
        CASE jsonb_typeof(h.pins) WHEN 'array' THEN h.pins ELSE '[]' END) AS part
    WHERE p.state IN ('live', 'closing') AND h.account_id IS NOT NULL
    GROUP BY 1, 2
), kept AS (
    SELECT a.id AS account_id, part -> 0 AS number,
           CASE WHEN jsonb_typeof(part -> 2) = 'number' THEN (part ->> 2)::numeric END AS held
    FROM accounts a CROSS JOIN LATERAL jsonb_array_elements(
        CASE jsonb_typeof(a.grants) WHEN 'array' THEN a.grants ELSE '[]' END) AS part
    WHERE a.held > 0
)
SELECT coalesce(k.account_id, p.account_id) AS account_id, coalesce(k.number, p.number) AS number,
       k.held AS held, p.held AS pinned, count(*) OVER () AS total
FROM kept k FULL JOIN pinned p ON p.account_id = k.account_id AND p.number = k.number
WHERE coalesce(k.held, 0) <> coalesce(p.held, 0)
  AND ($1::timestamptz IS NULL OR coalesce(k.account_id, p.account_id) IN (
      SELECT id FROM accounts WHERE last_at >= $1
      UNION SELECT account_id FROM entries WHERE at >= $1))
ORDER BY 1, 2 LIMIT 100;

-- name: twins
-- An allocation is a limit on the org's credits: what is held, charged or released there is so at
-- the org too, by the same outcome, with at least that cost. An allocation never owes anything.
SELECT e.id, e.account_id, e.sequence, e.kind, t.id IS NULL AS alone, e.held_delta,
       t.held_delta AS org_held_delta, -e.amount::numeric AS cost,
       t.debt_delta::numeric - t.amount AS org_cost, count(*) OVER () AS total
FROM members m
JOIN entries e ON e.account_id = m.account_id
LEFT JOIN entries t ON t.account_id = m.org_id AND t.outcome_id = e.outcome_id AND t.kind = e.kind
    AND t.hold_id IS NOT DISTINCT FROM e.hold_id
WHERE ($1::timestamptz IS NULL OR e.at >= $1)
  AND (e.kind IN ('purchase', 'bonus', 'debt') OR e.debt_delta <> 0
       OR (e.kind IN ('hold', 'usage', 'release')
           AND (t.id IS NULL OR t.held_delta <> e.held_delta
                OR -e.amount::numeric > t.debt_delta::numeric - t.amount)))
ORDER BY e.id LIMIT 100;

-- name: refunds
-- Refunds against their charges: `of` is the outcome of the charge, which comes back once, to each
-- account that paid it what it cost there.
WITH refunds AS (
    SELECT o.id, o.body -> 'of' AS of, o.body -> 'account' AS payer, o.body -> 'amount' AS said,
           CASE WHEN jsonb_typeof(o.body -> 'of') = 'number' THEN (o.body ->> 'of')::numeric END
               AS charge_id,
           row_number() OVER (PARTITION BY o.body -> 'of' ORDER BY o.id) AS time
    FROM outcomes o WHERE o.command = 'refund'
), given AS (
    SELECT outcome_id, account_id, min(id) AS id, min(sequence) AS sequence,
           sum(amount::numeric - debt_delta) AS back
    FROM entries WHERE kind = 'refund' GROUP BY 1, 2
), taken AS (
    SELECT r.id AS outcome_id, e.account_id, sum(e.debt_delta::numeric - e.amount) AS cost
    FROM refunds r JOIN entries e ON e.outcome_id = r.charge_id AND e.kind = 'usage'
    GROUP BY 1, 2
), pairs AS (
    SELECT coalesce(g.outcome_id, t.outcome_id) AS outcome_id, g.id, g.sequence, g.back, t.cost,
           coalesce(g.account_id, t.account_id) AS account_id
    FROM given g FULL JOIN taken t ON t.outcome_id = g.outcome_id AND t.account_id = g.account_id
)
SELECT coalesce(p.outcome_id, r.id) AS outcome_id, p.id, p.sequence, p.account_id, p.back, p.cost,
       r.id IS NULL AS of_none, r.of::text AS charge, r.time > 1 AS again,
       r.payer = to_jsonb(p.account_id) AND r.said IS DISTINCT FROM to_jsonb(p.cost) AS says_other,
       count(*) OVER () AS total
FROM pairs p FULL JOIN refunds r ON r.id = p.outcome_id
LEFT JOIN outcomes o ON o.id = coalesce(p.outcome_id, r.id)
WHERE ($1::timestamptz IS NULL OR o.at IS NULL OR o.at >= $1)
  AND (r.id IS NULL OR r.time > 1 OR p.back IS DISTINCT FROM p.cost OR p.id IS NULL
       OR (r.payer = to_jsonb(p.account_id) AND r.said IS DISTINCT FROM to_jsonb(p.cost)))
ORDER BY 1, 4 LIMIT 100;

-- name: plans
-- Plans against the newest outcome of each command that sets a part of them, and the calls that
-- were counted since the period began. A tier begins a new period in the instant of its outcome:
-- calls that the same transaction had counted before are those of the period before.
WITH said AS (
    SELECT DISTINCT ON (o.command, o.body -> 'account')
           o.command, o.body -> 'account' AS account, o.id, o.at, o.result, o.body
    FROM outcomes o
    WHERE o.command IN ('set_tier', 'set_quota', 'set_alerts', 'set_policy', 'set_member', 'allocate')
    ORDER BY o.command, o.body -> 'account', o.id DESC
), provisioned AS (
    -- A part that waited for a milestone was released once; one that was reached before the welcome
    -- credits came with them, and has no grant.
    SELECT account_id,
           jsonb_agg(substr(source, 11)) FILTER (WHERE layer = 'milestone') AS milestones
    FROM grants WHERE layer IS NOT NULL GROUP BY 1
), plans AS (
    SELECT id, plan, coalesce(plan ->> 'tier', 'free') AS tier, plan ->> 'next_tier' AS next_tier,
           coalesce(plan ->> 'welcome', '') = 'given' AS welcomed,
           CASE WHEN jsonb_typeof(plan -> 'calls') = 'number' THEN (plan ->> 'calls')::numeric
                WHEN plan -> 'calls' IS NULL THEN 0 END AS calls,
           CASE WHEN jsonb_typeof(plan -> 'period_start') = 'number'
                THEN (plan ->> 'period_start')::numeric END AS period_start
    FROM accounts
    WHERE $1::timestamptz IS NULL OR id IN (
        SELECT id FROM accounts WHERE last_at >= $1
        UNION SELECT account_id FROM entries WHERE at >= $1
        UNION SELECT user_id FROM outcomes WHERE at >= $1)
), counted AS (
    SELECT p.id, sum(o.calls) AS calls
    FROM outcomes o
    JOIN plans p ON p.id = o.user_id
    LEFT JOIN said t ON t.command = 'set_tier' AND t.result = 'changed' AND t.account = to_jsonb(p.id)
    WHERE o.calls <> 0 AND extract(epoch FROM o.at) * 1000000 >= p.period_start
      AND (t.at IS DISTINCT FROM o.at OR o.id > t.id)
    GROUP BY 1
), compared AS (
    SELECT p.id AS account_id, p.calls, coalesce(c.calls, 0) AS counted, p.tier, p.next_tier,
           t.id AS tier_outcome, t.body ->> 'tier' AS tier_said,
           p.calls IS DISTINCT FROM coalesce(c.calls, 0) AS other_calls,
           CASE WHEN t.id IS NULL THEN
                    p.next_tier IS NULL AND p.tier = CASE WHEN p.welcomed THEN 'trial' ELSE 'free' END
                WHEN p.next_tier IS NOT NULL THEN
                    t.result = 'scheduled' AND p.tier = t.body ->> 'from'
                    AND p.next_tier = t.body ->> 'tier'
                ELSE p.tier = t.body ->> 'tier'
                    OR (t.body ->> 'tier' = 'free' AND p.welcomed AND p.tier = 'trial')
           END IS NOT TRUE AS other_tier,
           p.plan ? 'tier_grant' AND extract(epoch FROM g.expires_at) * 1000000
               IS DISTINCT FROM p.period_start + 30 * 86400000000 AS other_period,
           array_remove(ARRAY[
               CASE WHEN p.plan -> 'call_limit' IS DISTINCT FROM nullif(q.body -> 'calls', 'null')
                    THEN 'call_limit' END,
               CASE WHEN p.plan -> 'low_micro' IS DISTINCT FROM nullif(l.body -> 'low', 'null')
                    THEN 'low_micro' END,
               CASE WHEN p.plan -> 'low_percent' IS DISTINCT FROM nullif(l.body -> 'percent', 'null')
                    THEN 'low_percent' END,
               CASE WHEN coalesce(p.plan ->> 'policy', 'pool')
                         <> coalesce(o.body ->> 'policy', 'pool') THEN 'policy' END,
               CASE WHEN p.plan ->> 'role' IS DISTINCT FROM
                         CASE WHEN w.id > coalesce(m.id, 0)
                                   AND coalesce(m.body ->> 'role', 'removed') = 'removed'
                              THEN 'member' ELSE m.body ->> 'role' END THEN 'role' END,
               CASE WHEN u.account_id IS NOT NULL AND NOT p.welcomed THEN 'welcome' END,
               CASE WHEN NOT coalesce(p.plan -> 'milestones', '[]') @> u.milestones
                    THEN 'milestones' END
           ], NULL) AS differ
    FROM plans p
    LEFT JOIN counted c ON c.id = p.id
    LEFT JOIN provisioned u ON u.account_id = p.id
    LEFT JOIN grants g ON g.account_id = p.id AND to_jsonb(g.number) = p.plan -> 'tier_grant'
    LEFT JOIN said t ON t.command = 'set_tier' AND t.account = to_jsonb(p.id)
    LEFT JOIN said q ON q.command = 'set_quota' AND q.account = to_jsonb(p.id)
    LEFT JOIN said l ON l.command = 'set_alerts' AND l.account = to_jsonb(p.id)
    LEFT JOIN said o ON o.command = 'set_policy' AND o.account = to_jsonb(p.id)
    LEFT JOIN said m ON m.command = 'set_member' AND m.account = to_jsonb(p.id)
    LEFT JOIN said w ON w.command = 'allocate' AND w.account = to_jsonb(p.id)
)
SELECT *, count(*) OVER () AS total FROM compared
WHERE other_calls OR other_tier OR other_period OR differ <> '{}'
ORDER BY account_id LIMIT 100;

-- name: members
-- Members with the subject of their account; also subjects of members that are none.
SELECT coalesce(m.account_id, s.account_id) AS account_id, m.org_id, m.user_id, s.commitment
FROM members m FULL JOIN subjects s ON s.account_id = m.account_id
WHERE m.account_id IS NOT NULL OR s.subject LIKE 'member:%';

-- name: audit
-- The whole audit log, in the order of its chain, with the command of the outcome that it names.
SELECT a.id, CASE WHEN a.at BETWEEN '0001-01-02+0' AND '9999-12-30+0' THEN a.at ELSE 'epoch' END AS at,
       a.actor_key, a.action, a.result, a.account_id, a.outcome_id, a.metadata, a.hash, a.actor,
       o.command
FROM audit a LEFT JOIN outcomes o ON o.id = a.outcome_id
ORDER BY a.id;

-- name: price_versions
-- An infinite start is read as the last day that Python has.
SELECT version, CASE WHEN effective_from BETWEEN '0001-01-02+0' AND '9999-12-30+0' THEN effective_from
                     ELSE '9999-12-30+0' END AS effective_from,
       book, statement_timestamp() AS now FROM price_versions
ORDER BY version;

-- name: settings
SELECT key, value FROM system_settings ORDER BY key;

-- name: model_usage
-- Usage of models, to be priced again; `command` only where a caller named the cost.
SELECT e.id, e.account_id, e.sequence, e.price_version, e.provider, e.model, e.input_tokens,
       e.output_tokens, e.tier, e.byok, e.amount, e.debt_delta, o.command
FROM entries e
LEFT JOIN outcomes o ON o.id = e.outcome_id AND o.command = 'deduct'
WHERE e.kind = 'usage' AND (e.model IS NOT NULL OR e.byok)
  AND NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id)
  AND ($1::timestamptz IS NULL OR e.at >= $1);
