-- What an outside identity provider's events have said last about each user, so that the order in
-- which they arrive changes nothing. `user_key` is a keyed hash: no name outlives an erasure here.
CREATE TABLE identity_state (
    user_key uuid PRIMARY KEY,
    -- The newest event that said something about their address; an older one changes it no more.
    at timestamptz NOT NULL,
    -- Deleted at the provider, which never gives the same id again: final.
    deleted boolean NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON identity_state TO faregate_app;

-- Whom the provider has told of, but whose address it has not verified, is known without one.
ALTER TABLE users ALTER COLUMN email DROP NOT NULL;
ALTER TABLE users ADD CHECK (email IS NOT NULL OR password_hash IS NULL);
