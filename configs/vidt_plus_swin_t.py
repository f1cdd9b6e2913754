"""Short name of vidt_plus_swin_tiny.py."""

from vidt_plus_swin_tiny import config

__all__ = ["config"]
