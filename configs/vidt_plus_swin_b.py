"""Short name of vidt_plus_swin_base.py."""

from vidt_plus_swin_base import config

__all__ = ["config"]
