"""Basics that every package may use: errors, files, registries, skeletons. Imports no other kpnet package."""
