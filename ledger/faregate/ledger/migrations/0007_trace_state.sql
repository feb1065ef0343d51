-- The other half of a W3C trace context, carried on to what is announced.
ALTER TABLE refs ADD COLUMN tracestate text;
