-- Erasure, and read-only views.

-- Erasing a person empties `subject` and leaves the commitment: what was announced under the old
-- name is found by it. The name may come again and is a new account then, so a commitment is not
-- unique any more; that a name is, UNIQUE (subject) says.
ALTER TABLE subjects DROP CONSTRAINT subjects_commitment_key;
CREATE INDEX subjects_commitment ON subjects (commitment);
ALTER TABLE subjects ADD COLUMN kind text
    CHECK (kind IN ('org', 'user'));    -- what it was, once its subject has been erased

-- How many erasures there were. Read under the account locks: a process that remembers names from
-- before the newest one forgets them.
ALTER TABLE ledger ADD COLUMN erasures bigint NOT NULL DEFAULT 0;

-- The views are for people with psql, under the names that they know. Amounts are credits
-- (numeric, exact, at most six decimals), accounts are subjects; one whose name has been erased is
-- `erased:<n>`. Views run with the rights of their owner, so that the role faregate_reader can be
-- given these and nothing else; none shows a keyed hash or the chain.

CREATE FUNCTION credits(micro numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN trim_scale(micro * 0.000001);

CREATE FUNCTION subject_of(account_id bigint, subject text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN account_id IS NOT NULL THEN coalesce(subject, 'erased:' || account_id) END;

-- A time as plans and grants are stored: microseconds since the epoch.
CREATE FUNCTION moment(micros text) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN timestamptz 'epoch' + micros::bigint * interval '1 microsecond';

-- Where the running period of a plan begins (periods have 720 hours); NULL before the first.
CREATE FUNCTION period_of(plan jsonb) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
RETURN moment(plan ->> 'period_start') + interval '720 hours' * greatest(
    0, floor(extract(epoch FROM now() - moment(plan ->> 'period_start')) / 2592000));

-- The tier of the running period: one that was chosen for the next period counts once it has begun.
CREATE FUNCTION tier_of(plan jsonb) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(
    CASE WHEN period_of(plan) > moment(plan ->> 'period_start') THEN plan ->> 'next_tier' END,
    plan ->> 'tier', 'free');

-- Finds a model in a price book as the engine does: the most exact reading of its name wins.
CREATE FUNCTION listed_model(models jsonb, provider text, model text,
                             OUT name text, OUT price jsonb)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT c.name, models -> c.name
    FROM (SELECT split_part(model, '/', 1) AS prefix,
                 substr(model, strpos(model, '/') + 1) AS rest,
                 strpos(model, '/') > 0 AS prefixed) AS m
    CROSS JOIN LATERAL (VALUES
        (1, provider || '/' || model),
        (2, CASE WHEN provider IS NULL OR NOT m.prefixed OR m.prefix = provider THEN model END),
        (3, CASE WHEN m.prefixed AND coalesce(provider, m.prefix) = m.prefix
                  AND (strpos(m.rest, '/') = 0 OR split_part(m.rest, '/', 1) = m.prefix)
                 THEN m.rest END),
        (4, CASE WHEN provider IS NULL THEN (
            SELECT max(k) FROM jsonb_object_keys(models) AS k
            WHERE substr(k, strpos(k, '/') + 1) = model HAVING count(*) = 1) END)
    ) AS c (rank, name)
    WHERE models ? c.name
    ORDER BY c.rank LIMIT 1;
END;

CREATE VIEW prices_in_force AS
SELECT version, effective_from, book FROM price_versions WHERE effective_from <= now()
ORDER BY effective_from DESC, version DESC LIMIT 1;
COMMENT ON VIEW prices_in_force IS 'The price book in force, as one document.';

CREATE VIEW user_credits AS
SELECT subject_of(a.id, s.subject) AS user_id,
       credits(a.balance - a.held) AS credits_remaining,
       credits(a.granted) AS credits_allocated,
       tier_of(a.plan) AS tier,
       period_of(a.plan) AS last_reset,
       period_of(a.plan) + interval '720 hours' AS next_reset,
       credits(a.balance) AS balance, credits(a.held) AS held, credits(a.debt) AS debt,
       s.created_at, greatest(a.last_at, s.created_at) AS updated_at
FROM accounts a JOIN subjects s ON s.account_id = a.id
WHERE s.subject LIKE 'user:%' OR s.kind = 'user';
COMMENT ON VIEW user_credits IS 'One row per user: what is left to spend (credits_remaining = balance - held), all that came in and neither expired nor was taken back (credits_allocated), tier and its running period.';

CREATE VIEW user_credit_balance AS
SELECT u.subject AS user_id, credits(a.balance - a.held) AS total_credits,
       coalesce(g.allocations, '[]') AS active_allocations
FROM accounts a JOIN subjects s ON s.account_id = a.id
CROSS JOIN LATERAL (SELECT subject_of(a.id, s.subject) AS subject) u
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object(
               'id', t.id, 'kind', t.kind, 'total_credits', credits(t.amount),
               'remaining_credits', credits((l.lot ->> 1)::numeric),
               'held', credits((l.lot ->> 2)::numeric), 'priority', t.priority,
               'allocated_at', t.at, 'expires_at', t.expires_at, 'source', t.source,
               'allocated_by', t.allocated_by, 'notes', t.notes) ORDER BY l.n) AS allocations
    FROM jsonb_array_elements(a.grants) WITH ORDINALITY AS l (lot, n)
    JOIN grants t ON t.account_id = a.id AND t.number = (l.lot ->> 0)::bigint
) g ON true
WHERE s.subject LIKE 'user:%' OR s.kind = 'user';
COMMENT ON VIEW user_credit_balance IS 'One row per user: what is left to spend, and the grants that it is made of, in the order in which they burn.';

CREATE VIEW organizations AS
SELECT subject_of(a.id, s.subject) AS org_id, coalesce(a.plan ->> 'policy', 'pool') AS spending_policy,
       tier_of(a.plan) AS tier,
       (SELECT count(*) FROM members m JOIN accounts ma ON ma.id = m.account_id
        WHERE m.org_id = a.id AND ma.plan ->> 'role' IN ('admin', 'member')) AS members,
       s.created_at, greatest(a.last_at, s.created_at) AS updated_at
FROM accounts a JOIN subjects s ON s.account_id = a.id
WHERE s.subject LIKE 'org:%' OR s.kind = 'org';
COMMENT ON VIEW organizations IS 'One row per organization: how its credits may be spent, its tier, how many members it has.';

CREATE VIEW organization_credits AS
SELECT subject_of(a.id, s.subject) AS org_id, credits(a.balance) AS total_credits,
       credits(coalesce(m.allocated, 0)) AS allocated_credits,
       credits(a.balance - a.held) AS available_credits,
       credits(a.held) AS held, credits(a.debt) AS debt
FROM accounts a JOIN subjects s ON s.account_id = a.id
LEFT JOIN (
    SELECT m.org_id, sum(ma.balance) AS allocated
    FROM members m JOIN accounts ma ON ma.id = m.account_id GROUP BY m.org_id
) m ON m.org_id = a.id
WHERE s.subject LIKE 'org:%' OR s.kind = 'org';
COMMENT ON VIEW organization_credits IS 'One row per organization: what it owns, what its members may still spend of it (allocations are limits and may together exceed the balance), what is neither held nor spent.';

CREATE VIEW organization_members AS
SELECT subject_of(m.org_id, o.subject) AS org_id, subject_of(m.user_id, u.subject) AS user_id,
       a.plan ->> 'role' AS role, credits(a.granted) AS allocated,
       credits(a.granted - a.balance) AS used, credits(a.balance - a.held) AS remaining,
       credits(a.held) AS held, m.created_at AS joined_at
FROM members m
JOIN accounts a ON a.id = m.account_id
LEFT JOIN subjects o ON o.account_id = m.org_id
LEFT JOIN subjects u ON u.account_id = m.user_id
WHERE a.plan ->> 'role' IN ('admin', 'member');
COMMENT ON VIEW organization_members IS 'One row per member of an organization: role, and what was allocated to them, used of it, left of it. Who has been removed is not listed.';

CREATE VIEW credit_transactions AS
SELECT e.id, subject_of(e.account_id, s.subject) AS account, e.sequence, e.at AS created_at,
       e.kind AS transaction_type, credits(e.amount) AS amount,
       credits(e.held_delta) AS held_delta, credits(e.debt_delta) AS debt_delta,
       credits(e.balance) AS balance_after, credits(e.held) AS held_after,
       credits(e.debt) AS debt_after,
       subject_of(e.user_id, u.subject) AS user_id, subject_of(e.org_id, o.subject) AS org_id,
       e.provider, e.model, e.phase, e.units, e.price_version, e.reason,
       e.hold_id, r.pipeline_id, r.usage_id, r.correlation_id
FROM entries e
LEFT JOIN subjects s ON s.account_id = e.account_id
LEFT JOIN subjects u ON u.account_id = e.user_id
LEFT JOIN subjects o ON o.account_id = e.org_id
LEFT JOIN refs r ON r.outcome_id = e.outcome_id
WHERE NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id);
COMMENT ON VIEW credit_transactions IS 'Every entry of the ledger of users and organizations; amounts of one account sum up to its balance. What organizations allocate to members is not listed: that is a limit, no credits.';

CREATE VIEW credit_deduction_ledger AS
SELECT e.id, subject_of(e.account_id, s.subject) AS payer,
       subject_of(e.user_id, u.subject) AS user_id, subject_of(e.org_id, o.subject) AS org_id,
       credits(e.debt_delta - e.amount) AS credits_deducted,
       credits(-e.amount) AS from_balance, credits(e.debt_delta) AS as_debt,
       e.phase, e.units, e.provider, e.model, e.byok, e.price_version, e.reason,
       e.hold_id, r.pipeline_id, r.usage_id, e.occurred_at, e.at AS created_at,
       credits(e.balance) AS balance_after
FROM entries e
LEFT JOIN subjects s ON s.account_id = e.account_id
LEFT JOIN subjects u ON u.account_id = e.user_id
LEFT JOIN subjects o ON o.account_id = e.org_id
LEFT JOIN refs r ON r.outcome_id = e.outcome_id
WHERE e.kind = 'usage' AND NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id);
COMMENT ON VIEW credit_deduction_ledger IS 'Every charge: who paid how much for whose usage, what came out of the balance and what became debt.';

CREATE VIEW token_usage_ledger AS
SELECT e.id, subject_of(e.account_id, s.subject) AS payer,
       subject_of(e.user_id, u.subject) AS user_id, subject_of(e.org_id, o.subject) AS org_id,
       coalesce(e.provider, nullif(split_part(l.name, '/', 1), l.name)) AS provider, e.model,
       e.input_tokens, e.output_tokens, e.input_tokens + e.output_tokens AS total_tokens,
       credits(e.debt_delta - e.amount) AS credits_charged, e.byok,
       trim_scale((e.input_tokens * (l.price ->> 'input_usd_per_1k')::numeric
           + e.output_tokens * (l.price ->> 'output_usd_per_1k')::numeric) * 0.001)
           AS vendor_cost_usd,
       e.price_version, r.usage_id, r.pipeline_id, e.occurred_at, e.at AS created_at
FROM entries e
LEFT JOIN subjects s ON s.account_id = e.account_id
LEFT JOIN subjects u ON u.account_id = e.user_id
LEFT JOIN subjects o ON o.account_id = e.org_id
LEFT JOIN refs r ON r.outcome_id = e.outcome_id
LEFT JOIN price_versions v ON v.version = e.price_version
LEFT JOIN LATERAL listed_model(v.book -> 'models', e.provider, e.model) l ON true
WHERE e.kind = 'usage' AND e.model IS NOT NULL
  AND NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id);
COMMENT ON VIEW token_usage_ledger IS 'Every charged LLM call: tokens, credits, and what the provider takes for it in USD by the price version of the charge, before any margin (NULL where that does not say).';

CREATE VIEW usage_tracking AS
WITH users AS (
    SELECT a.id, subject_of(a.id, s.subject) AS user_id, period_of(a.plan) AS start,
           coalesce((a.plan ->> 'call_limit')::bigint, CASE WHEN p.book ? 'tiers'
               THEN (p.book -> 'tiers' -> tier_of(a.plan) ->> 'calls')::bigint
               ELSE d.calls END) AS calls
    FROM accounts a JOIN subjects s ON s.account_id = a.id
    LEFT JOIN prices_in_force p ON true
    LEFT JOIN (VALUES ('trial', 700), ('starter', 2000), ('professional', 10000),
                      ('platform', 10000)) AS d (tier, calls) ON d.tier = tier_of(a.plan)
    WHERE a.plan ? 'period_start' AND (s.subject LIKE 'user:%' OR s.kind = 'user')
), used AS (
    SELECT user_id, at, calls::bigint AS calls, 0::numeric AS micro FROM outcomes WHERE calls > 0
    UNION ALL
    SELECT e.user_id, e.at, 0, e.debt_delta - e.amount FROM entries e
    WHERE e.kind = 'usage' AND NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id)
    UNION ALL
    SELECT id, start, 0, 0 FROM users
)
SELECT u.user_id, p.period_start, p.period_start + interval '720 hours' AS period_end,
       sum(used.calls)::bigint AS api_calls_used, u.calls AS api_calls_limit,
       greatest(u.calls - sum(used.calls)::bigint, 0) AS remaining,
       credits(sum(used.micro)) AS credits_used
FROM users u JOIN used ON used.user_id = u.id
CROSS JOIN LATERAL (
    SELECT u.start + interval '720 hours'
        * floor(extract(epoch FROM used.at - u.start) / 2592000) AS period_start
) p
GROUP BY u.user_id, u.calls, p.period_start;
COMMENT ON VIEW usage_tracking IS 'One row per user and period: calls counted, calls allowed by today''s tier or quota, credits that the user''s usage cost, whoever paid. Periods before the running one are counted back from it in steps of 30 days.';

CREATE VIEW providers AS
SELECT n.provider, coalesce((p.book -> 'providers' -> n.provider ->> 'active')::boolean, true)
           AS active,
       (SELECT count(*) FROM jsonb_object_keys(coalesce(p.book -> 'models', '{}')) AS k
        WHERE split_part(k, '/', 1) = n.provider AND strpos(k, '/') > 0) AS models,
       p.version AS price_version
FROM prices_in_force p
CROSS JOIN LATERAL (
    SELECT split_part(k, '/', 1) AS provider
    FROM jsonb_object_keys(coalesce(p.book -> 'models', '{}')) AS k WHERE strpos(k, '/') > 0
    UNION
    SELECT jsonb_object_keys(coalesce(p.book -> 'providers', '{}'))
) n;
COMMENT ON VIEW providers IS 'Providers of LLMs in the price book in force; requests for the models of one that is not active are refused.';

CREATE VIEW model_provider_pricing AS
SELECT CASE WHEN strpos(m.key, '/') > 0 THEN split_part(m.key, '/', 1) END AS provider,
       substr(m.key, strpos(m.key, '/') + 1) AS model, m.value ->> 'kind' AS pricing,
       trim_scale((m.value ->> 'input_usd_per_1k')::numeric) AS input_usd_per_1k,
       trim_scale((m.value ->> 'output_usd_per_1k')::numeric) AS output_usd_per_1k,
       trim_scale((m.value ->> 'credits')::numeric) AS credits_per_1k,
       CASE WHEN m.value ->> 'kind' = 'vendor' THEN trim_scale(coalesce(
           (m.value ->> 'margin')::numeric, (p.book -> 'vendor' ->> 'margin')::numeric, 1.5))
           END AS margin,
       CASE WHEN m.value ->> 'kind' = 'vendor' THEN trim_scale(coalesce(
           (p.book -> 'vendor' ->> 'usd_per_credit')::numeric, 0.01)) END AS usd_per_credit,
       CASE WHEN m.value ->> 'kind' = 'vendor' THEN trim_scale(coalesce(
           (p.book ->> 'increment')::numeric, 0.1)) END AS credit_minimum_increment,
       coalesce((m.value ->> 'active')::boolean, true) AS active,
       p.version AS price_version, p.effective_from
FROM prices_in_force p
CROSS JOIN LATERAL jsonb_each(coalesce(p.book -> 'models', '{}')) AS m;
COMMENT ON VIEW model_provider_pricing IS 'What models cost by the price book in force: vendor (USD per 1K tokens x margin / usd_per_credit, up to the increment), credits_per_1k, or tier_rate (credits per 1K tokens by the user''s tier).';

-- Roles are shared by the databases of a cluster, so another database may have made it already.
DO $$ BEGIN
    CREATE ROLE faregate_reader NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
GRANT USAGE ON SCHEMA public TO faregate_reader;
GRANT SELECT ON user_credits, user_credit_balance, organizations, organization_credits,
    organization_members, credit_transactions, usage_tracking, token_usage_ledger,
    credit_deduction_ledger, providers, model_provider_pricing, prices_in_force, system_settings
    TO faregate_reader, faregate_app;
