"""Short name of vidt_plus_swin_small.py."""

from vidt_plus_swin_small import config

__all__ = ["config"]
