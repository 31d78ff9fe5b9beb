"""Comparisons: many configs and seeds in, one table and one page out."""
