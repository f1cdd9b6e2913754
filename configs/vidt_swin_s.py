"""Short name of vidt_swin_small.py."""

from vidt_swin_small import config

__all__ = ["config"]
