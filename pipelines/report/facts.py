"""Looking things up in JSON that may lack them: what is absent is None, and remembered by file and key, so that the page can count it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Absences:
    """File and keys of everything that was asked for and not there, in the order of asking, each once."""

    keys: dict[str, None] = field(default_factory=dict)

    def add(self, where: str) -> None:
        """Remember one."""
        self.keys.setdefault(where)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Node:
    """A place in a JSON file. `value` is None where the file or the key is not there; `where` is `file: key.key` for people."""

    value: Any
    where: str
    absences: Absences

    @property
    def present(self) -> bool:
        """Whether there is anything here. Asking is not remembered."""
        return self.value is not None

    def at(self, *keys: str | int) -> Node:
        """The place below `keys`, present or not. Nothing is remembered until its value is asked for."""
        value, where = self.value, self.where
        for key in keys:
            # below a file or a part that is not there, the highest absent place is the one to name
            where = where if value is None else f"{where}{': ' if where.endswith(('.json', '.jsonl')) else '.'}{key}"
            if isinstance(value, Mapping):
                value = value.get(key)
            elif isinstance(value, Sequence) and not isinstance(value, str) and isinstance(key, int) and -len(value) <= key < len(value):
                value = value[key]
            else:
                value = None
        return Node(value, where, self.absences)

    @property
    def as_number(self) -> float | int | None:
        """A finite number or None, not remembered: for a remark that is left away where there is none."""
        value = self.value
        return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None

    @property
    def as_text(self) -> str | None:
        """A text or None, not remembered."""
        return self.value if isinstance(self.value, str) and self.value else None

    @property
    def texts(self) -> list[str]:
        """The texts of a list, not remembered."""
        return [item for item in self.value if isinstance(item, str)] if isinstance(self.value, list) else []

    @property
    def names(self) -> list[str]:
        """The keys of an object, sorted, not remembered."""
        return sorted(str(key) for key in self.value) if isinstance(self.value, Mapping) else []

    def number(self, *keys: str | int) -> float | int | None:
        """A finite number, or None and remembered."""
        node = self.at(*keys)
        if node.as_number is None:
            node._absent()
        return node.as_number

    def text(self, *keys: str | int) -> str | None:
        """A text, or None and remembered."""
        node = self.at(*keys)
        if node.as_text is None:
            node._absent()
        return node.as_text

    def items(self, *keys: str | int) -> list[tuple[str, Node]]:
        """Key and place of each entry of an object, in the file's order; empty and remembered where there is no object."""
        node = self.at(*keys)
        if not isinstance(node.value, Mapping):
            node._absent()
            return []
        return [(str(key), node.at(key)) for key in node.value]

    def each(self, *keys: str | int) -> list[Node]:
        """The places in a list; empty and remembered where there is no list."""
        node = self.at(*keys)
        if not isinstance(node.value, list):
            node._absent()
            return []
        return [node.at(index) for index in range(len(node.value))]

    def _absent(self) -> None:
        self.absences.add(self.where)
