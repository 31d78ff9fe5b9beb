"""A model's measures on labelled data. Imports models, data and kpnet.metrics."""
