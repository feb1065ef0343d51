-- A refund names the charge that it gave back: the outcome of it, and what callers named it.
CREATE OR REPLACE VIEW credit_transactions AS
SELECT e.id, subject_of(e.account_id, s.subject) AS account, e.sequence, e.at AS created_at,
       e.kind AS transaction_type, credits(e.amount) AS amount,
       credits(e.held_delta) AS held_delta, credits(e.debt_delta) AS debt_delta,
       credits(e.balance) AS balance_after, credits(e.held) AS held_after,
       credits(e.debt) AS debt_after,
       subject_of(e.user_id, u.subject) AS user_id, subject_of(e.org_id, o.subject) AS org_id,
       e.provider, e.model, e.phase, e.units, e.price_version, e.reason,
       e.hold_id, coalesce(r.pipeline_id, f.pipeline_id) AS pipeline_id,
       coalesce(r.usage_id, f.usage_id) AS usage_id, r.correlation_id, e.outcome_id, f.charge_id
FROM entries e
LEFT JOIN subjects s ON s.account_id = e.account_id
LEFT JOIN subjects u ON u.account_id = e.user_id
LEFT JOIN subjects o ON o.account_id = e.org_id
LEFT JOIN refs r ON r.outcome_id = e.outcome_id
LEFT JOIN (
    SELECT g.id, (g.body ->> 'of')::bigint AS charge_id, c.pipeline_id, c.usage_id
    FROM outcomes g LEFT JOIN refs c ON c.outcome_id = (g.body ->> 'of')::bigint
    WHERE g.command = 'refund'
) f ON f.id = e.outcome_id AND e.kind = 'refund'
WHERE NOT EXISTS (SELECT FROM members m WHERE m.account_id = e.account_id);
COMMENT ON VIEW credit_transactions IS 'Every entry of the ledger of users and organizations; amounts of one account sum up to its balance. A refund has the usage_id and pipeline_id of what it gave back, and the outcome_id of that charge as charge_id. What organizations allocate to members is not listed: that is a limit, no credits.';
