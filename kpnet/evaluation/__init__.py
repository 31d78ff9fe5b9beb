"""A model's measures on labelled data. Imports models, data, kpnet.metrics."""
