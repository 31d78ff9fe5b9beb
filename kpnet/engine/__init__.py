"""Training, with Lightning."""
