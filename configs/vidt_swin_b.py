"""Short name of vidt_swin_base.py."""

from vidt_swin_base import config

__all__ = ["config"]
