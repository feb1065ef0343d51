-- The default price book: an explicit zero is a price; ten essays make 45 pairs.
INSERT INTO price_versions (version, effective_from, applied_by, book) VALUES (1, 'epoch', 'default', '{
    "pipelines": {
        "nlp": ["spellcheck", "nlp"],
        "cj_assessment": ["spellcheck", "cj_assessment"]
    },
    "phases": {
        "spellcheck": {"per": "item", "credits": 0},
        "nlp": {"per": "item", "credits": 0},
        "cj_assessment": {"per": "pair", "credits": 1}
    }
}');
