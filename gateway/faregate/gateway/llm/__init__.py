"""The LLM proxy: estimate, hold, call upstream, settle from what it reports (docs/llm.md)."""
