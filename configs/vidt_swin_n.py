"""Short name of vidt_swin_nano.py."""

from vidt_swin_nano import config

__all__ = ["config"]
