"""A trained model on images and videos. Imports models, data and plot."""
