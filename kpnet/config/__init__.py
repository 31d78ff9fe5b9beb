"""The YAML as typed settings: fields, defaults, reading, overrides. Imports core."""
