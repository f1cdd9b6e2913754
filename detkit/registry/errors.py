"""What is raised when a config is wrong."""

from __future__ import annotations


class ConfigError(ValueError):
    """Something in a config is wrong; the message begins with the path inside the config."""
