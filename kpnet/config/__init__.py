"""Typed configs: the schema of the YAML, its defaults, loading and overrides. Imports core."""
