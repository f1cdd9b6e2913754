"""Semantic correspondence: matchers between images of one class."""
