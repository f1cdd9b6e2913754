"""Short name of vidt_plus_swin_nano.py."""

from vidt_plus_swin_nano import config

__all__ = ["config"]
