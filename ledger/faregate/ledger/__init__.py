"""Where credits live: the pure core, the append-only store in PostgreSQL, and the proof."""
