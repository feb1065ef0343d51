-- A clock that tests can move, in databases that the test kit makes and nowhere else: the search
-- path of such a database finds these functions before PostgreSQL's own. Time only goes forward,
-- because the ledger holds no entry that is earlier than the one before it.
CREATE TABLE public.test_clock (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    ahead interval NOT NULL DEFAULT '0'
);
INSERT INTO public.test_clock DEFAULT VALUES;
GRANT SELECT ON public.test_clock TO PUBLIC;
CREATE FUNCTION public.forward_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.ahead < OLD.ahead THEN
        RAISE EXCEPTION 'the clock of a test only goes forward';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER forward_only BEFORE UPDATE ON public.test_clock
    FOR EACH ROW EXECUTE FUNCTION public.forward_only();

CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + ahead FROM public.test_clock';
CREATE FUNCTION public.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
    'SELECT pg_catalog.statement_timestamp() + ahead FROM public.test_clock';
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE AS
    'SELECT pg_catalog.now() + ahead FROM public.test_clock';
