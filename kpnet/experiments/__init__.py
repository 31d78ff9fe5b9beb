"""Comparisons and sweeps: many trainings in; tables and an HTML page out.

Imports training, evaluation, plot and what lies beneath.
"""
