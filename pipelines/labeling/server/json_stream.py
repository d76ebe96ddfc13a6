"""Reading one large JSON array of objects as it arrives, holding one object at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

_SPACE = " \t\r\n"


def objects_of_array(chunks: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of the array that `chunks` spell.

    Raises:
        ValueError: not an array of objects, or it breaks off.
    """
    decoder = json.JSONDecoder()
    buffer = ""
    opened = closed = False
    for chunk in chunks:
        buffer += chunk
        position = 0
        while True:
            while position < len(buffer) and buffer[position] in _SPACE + ("," if opened else "["):
                opened = opened or buffer[position] == "["
                position += 1
            if position == len(buffer):
                break
            if closed or (not opened) or buffer[position] not in "{]":
                raise ValueError(f"no array of objects: {buffer[position : position + 80]}")
            if buffer[position] == "]":
                closed = True
                position += 1
                continue
            try:
                value, position = decoder.raw_decode(buffer, position)
            except ValueError:
                break  # the object goes on in the next chunk
            yield value
        buffer = buffer[position:]
    if not closed:
        raise ValueError(f"it breaks off: {buffer[-80:]}")
