"""Smaller detectors made of trained ones, without training them again."""
