"""Short name of vidt_swin_tiny.py."""

from vidt_swin_tiny import config

__all__ = ["config"]
