"""Fonts that have the characters of a text: class names may be in any script."""

from __future__ import annotations

from functools import cache, lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
NO_CHARACTER = "\U0010fffe"  # no font has it
PREFERRED = ("NotoSans", "DejaVuSans", "Arial", "PingFang", "Hiragino", "msyh", "simhei", "malgun", "wqy")


@lru_cache(maxsize=1024)
def font_with(text: str, size: int) -> Font | None:
    """A font of this size that has all characters of a text: Pillow's own, or one of the system; None for none."""
    own = _own_font(size)
    if text.isascii() or _draws(own, text):
        return own
    path = _file_with("".join(sorted({character for character in text if not character.isspace()})))
    return None if path is None else ImageFont.truetype(path, size)


@cache
def _own_font(size: int) -> Font:
    return ImageFont.load_default(size)


def _draws(font: Font, text: str) -> bool:
    if not isinstance(font, ImageFont.FreeTypeFont):
        return False
    missing = bytes(font.getmask(NO_CHARACTER))
    return all(character.isspace() or bytes(font.getmask(character)) != missing for character in set(text))


@cache
def _file_with(characters: str) -> str | None:
    """The file of a font that has these characters, the preferred ones first; None for none."""
    from matplotlib.font_manager import findfont, findSystemFonts
    from matplotlib.ft2font import FT2Font

    def rank(path: str) -> tuple[bool, str]:
        return not any(name in path for name in PREFERRED), path

    for path in [findfont("DejaVu Sans"), *sorted(findSystemFonts(), key=rank)]:
        try:
            known = FT2Font(path).get_charmap()
            if all(ord(character) in known for character in characters):
                ImageFont.truetype(path, 12)
                return path
        except (OSError, RuntimeError):  # a damaged font, or one of another format
            continue
    return None
