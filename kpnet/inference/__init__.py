"""A trained model on pictures and videos. Imports models, data, plot."""
