-- Calls over HTTP that are no commands of the ledger and came with an Idempotency-Key: what they were
-- and what was answered, written in the transaction of what was done and kept for ever, as outcomes
-- are. A repeat finds the answer here. Commands need no row: their outcome is that memory.
--
-- Keys and fingerprints are keyed hashes; no password, token or key of a provider is in any of them,
-- or in an answer. A person's rows are deleted when they are erased, and `by` in others' answers
-- emptied.
CREATE TABLE http_calls (
    call_key uuid PRIMARY KEY,          -- keyed hash of caller, route and Idempotency-Key
    caller_key uuid NOT NULL,           -- keyed hash of who called: an erasure finds their rows by it
    fingerprint uuid NOT NULL,          -- keyed hash of what was asked for
    answer jsonb NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX http_calls_of_caller ON http_calls (caller_key);
GRANT SELECT, INSERT ON http_calls TO faregate_app;
