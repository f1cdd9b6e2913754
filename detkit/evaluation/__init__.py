"""Measuring what models find."""
