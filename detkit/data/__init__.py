"""Datasets, training transforms and loaders."""
