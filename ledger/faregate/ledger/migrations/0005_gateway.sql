-- What the HTTP gateway knows beside the ledger: who may sign in, what orgs are called, who has been
-- invited. Nothing about money rests on these rows; the ledger knows users and orgs by id alone.

-- Who can sign in, by the embedded identity; with an outside issuer, whose verified e-mail address
-- is known (then without a password). `user_id` is the ledger's `user:<user_id>`.
CREATE TABLE users (
    user_id text PRIMARY KEY,
    email text NOT NULL,
    password_hash text,
    name text,
    is_admin boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX users_email ON users (lower(email));

-- What orgs that were made over HTTP are called.
CREATE TABLE org_names (
    org_id text PRIMARY KEY,
    name text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Who was invited and is not known yet: a member as soon as they are. `email` is in lower case.
CREATE TABLE invitations (
    org_id text NOT NULL,
    email text NOT NULL,
    role text NOT NULL CHECK (role IN ('admin', 'member')),
    invited_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (org_id, email)
);
CREATE INDEX invitations_of_email ON invitations (email);

-- Keys that sign the embedded identity's tokens (private JWKs): the newest signs, all verify.
CREATE TABLE signing_keys (
    kid text PRIMARY KEY,
    jwk jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON users, org_names, invitations TO faregate_app;
GRANT SELECT, INSERT ON signing_keys TO faregate_app;

-- Which model a hold was made for, so that settling it by tokens need not say it again.
CREATE TABLE hold_models (
    hold_id uuid PRIMARY KEY,
    provider text,
    model text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT SELECT, INSERT, DELETE ON hold_models TO faregate_app;

-- Calls of a user by period (GET /api/v1/usage/history).
CREATE INDEX outcomes_calls ON outcomes (user_id, at) WHERE calls > 0;
