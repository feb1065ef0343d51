"""What can be called: one file per resource, each thin: parse, authorize, call, answer."""
