"""Puts the parts together: settings, the command line, processes, and the embedded stack."""
