"""Comparisons and sweeps: many trainings in; tables and an HTML page out."""
