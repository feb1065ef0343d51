-- What Lago has said of subscriptions, and who is to be its customer. No money rests on these rows:
-- what was paid for is granted once by the ledger's own key of it.

-- The state of each subscription, whatever order messages came in. `plan_codes` are the plans that
-- it has had, the last one counts; `ended` is for ever.
CREATE TABLE lago_subscriptions (
    lago_id text PRIMARY KEY,
    subject text NOT NULL,
    external_id text NOT NULL,
    plan_codes text[] NOT NULL CHECK (cardinality(plan_codes) > 0),
    started_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    ended boolean NOT NULL
);
CREATE INDEX lago_subscriptions_of_subject ON lago_subscriptions (subject);

-- The tier that subscriptions last came to, by account.
CREATE TABLE lago_tiers (
    subject text PRIMARY KEY,
    tier text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Accounts that are to be customers in Lago.
CREATE TABLE lago_customers (
    subject text PRIMARY KEY,
    status text NOT NULL DEFAULT 'wanted' CHECK (status IN ('wanted', 'made', 'refused')),
    tries integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX lago_customers_wanted ON lago_customers (next_try_at) WHERE status = 'wanted';

GRANT SELECT, INSERT, UPDATE, DELETE ON lago_subscriptions, lago_tiers, lago_customers
    TO faregate_app;
