"""Bring your own key: users' keys of providers, sealed at rest and never shown again."""
