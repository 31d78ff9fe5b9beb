"""A model's measures on labelled data. Imports models, data, inference and kpnet.metrics."""
