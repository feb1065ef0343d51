-- The default price book: an explicit zero is a price; ten essays make 45 pairs. The tiers are those
-- of a book that names none.
INSERT INTO price_versions (version, effective_from, applied_by, book) VALUES (1, 'epoch', 'default', '{
    "pipelines": {
        "nlp": ["spellcheck", "nlp"],
        "cj_assessment": ["spellcheck", "cj_assessment"]
    },
    "phases": {
        "spellcheck": {"per": "item", "credits": 0},
        "nlp": {"per": "item", "credits": 0},
        "cj_assessment": {"per": "pair", "credits": 1}
    },
    "vendor": {"margin": 1.5, "usd_per_credit": 0.01},
    "increment": 0.1,
    "models": {
        "openai/gpt-4o-mini":
            {"kind": "vendor", "input_usd_per_1k": 0.00015, "output_usd_per_1k": 0.0006},
        "openai/gpt-3.5-turbo":
            {"kind": "credits_per_1k", "credits": 90,
             "input_usd_per_1k": 0.0005, "output_usd_per_1k": 0.0015},
        "openai/gpt-4":
            {"kind": "credits_per_1k", "credits": 480,
             "input_usd_per_1k": 0.03, "output_usd_per_1k": 0.06},
        "openai/gpt-4-turbo":
            {"kind": "credits_per_1k", "credits": 240,
             "input_usd_per_1k": 0.01, "output_usd_per_1k": 0.03},
        "anthropic/claude-3-sonnet":
            {"kind": "credits_per_1k", "credits": 150,
             "input_usd_per_1k": 0.003, "output_usd_per_1k": 0.015}
    }
}');
