-- Keys that users bring for their own calls of a provider, sealed by the gateway: what is in here
-- opens with the master key only, which the database never sees.
--
-- `sealed` is the key under a data key of its own, `data_key` that data key under the master key
-- whose fingerprint is `master_id` (AES-256-GCM, the nonce in front). Both are bound to owner,
-- provider and version, so no row can be put in the place of another or of an older one.
CREATE TABLE byok_keys (
    owner text NOT NULL,
    provider text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    sealed bytea NOT NULL,
    data_key bytea NOT NULL,
    master_id text NOT NULL,
    masked text NOT NULL,
    status text NOT NULL CHECK (status IN ('stored', 'valid', 'refused')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    status_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (owner, provider)
);
CREATE INDEX byok_keys_of_master ON byok_keys (master_id);

-- Versions go up for ever, also when a key was deleted in between.
CREATE SEQUENCE byok_key_versions AS integer;

GRANT SELECT, INSERT, UPDATE, DELETE ON byok_keys TO faregate_app;
GRANT USAGE ON byok_key_versions TO faregate_app;
