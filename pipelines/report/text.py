"""Numbers and other values as people read them. None is shown as "not measured", never as a number."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

NOT_MEASURED = Markup('<span class="absent">not measured</span>')
THIN = "\u202f"  # narrow no-break space: between thousands, before units
MINUS = "\u2212"
_CODE = re.compile(r"`([^`]+)`")


def percent(fraction: float | None, digits: int = 1) -> str | Markup:
    """0.7134 is 71.3 %."""
    return NOT_MEASURED if fraction is None else _signed(f"{fraction * 100:.{digits}f}") + f"{THIN}%"


def points(fraction: float | None) -> str | Markup:
    """A change as percent with its sign: -0.004 is −0.4 %."""
    if fraction is None:
        return NOT_MEASURED
    text = _signed(f"{fraction * 100:+.1f}")
    return f"{text.removeprefix('+') if text == '+0.0' else text}{THIN}%"


def count(value: float | None) -> str | Markup:
    """12345 is 12 345."""
    return NOT_MEASURED if value is None else _signed(f"{value:,.0f}").replace(",", THIN)


def counted(value: float | None, noun: str) -> str | Markup:
    """1 is "1 image", 2 is "2 images": for nouns whose plural is an s."""
    return NOT_MEASURED if value is None else f"{count(value)} {noun if value == 1 else noun + 's'}"


def decimal(value: float | None, digits: int = 2) -> str | Markup:
    """A plain number with fixed decimals."""
    return NOT_MEASURED if value is None else _signed(f"{value:,.{digits}f}").replace(",", THIN)


def milliseconds(value: float | None) -> str | Markup:
    """Two decimals below 10 ms, one from there on, none from 1000."""
    if value is None:
        return NOT_MEASURED
    digits = 2 if value < 9.995 else 1 if value < 999.95 else 0
    return f"{decimal(value, digits)}{THIN}ms"


def seconds(value: float | None) -> str | Markup:
    """Below two minutes as seconds, above as minutes and seconds."""
    if value is None:
        return NOT_MEASURED
    if value < 10:
        return f"{value:.2f}{THIN}s"
    if value < 120:
        return f"{value:.0f}{THIN}s"
    return f"{int(value) // 60}{THIN}min {int(value) % 60:02d}{THIN}s"


def megabytes(value: float | None) -> str | Markup:
    """A size given in MB."""
    return NOT_MEASURED if value is None else f"{decimal(value, 1 if value < 100 else 0)}{THIN}MB"


def short(text: str | None, length: int = 10) -> str | Markup:
    """The first characters of a hash or an id."""
    return NOT_MEASURED if text is None else text[:length]


def said(text: str | None) -> str | Markup:
    """A text as it is."""
    return NOT_MEASURED if text is None else text


def anything(value: object) -> str | Markup:
    """A value of any JSON type: numbers to 4 significant digits, the rest as it is."""
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _signed(f"{value:.4g}")
    return str(value)


def message(text: str | Markup) -> Markup:
    """A sentence from a stage, escaped; what stands `between backticks` is code."""
    if isinstance(text, Markup):
        return text
    parts = _CODE.split(text)
    return Markup().join(Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts))


def words(text: str | Markup) -> str | Markup:
    """`exact_duplicate` is "exact duplicate"."""
    return text if isinstance(text, Markup) else text.replace("_", " ")


def _signed(text: str) -> str:
    """A true minus, and none before a zero."""
    return text.replace("-", MINUS) if any(digit in text for digit in "123456789") else text.removeprefix("-")
