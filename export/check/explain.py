"""Where do two runners part? Bisects the graph that they share for the first node whose inputs agree and whose output does not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Relative difference of a node's numbers that counts as parted, by the lower precision of the two. float32 runtimes differ by 1e-6 to 1e-5; bfloat16
# rounds to 4e-3, float16 to 5e-4, which adds up over the layers; int8 rounds each tensor to 1/127 of its range.
TOLERANCES = {"fp32": 5e-4, "fp16": 1e-2, "int8": 0.3}
SAME_WEIGHTS = 1e-6
ADDS_UP = 2  # a node whose output differs by less than so many times its input's difference only passes it on
MOST_ENDS = 40  # nodes asked, from the ends back, before the two are said to agree: boxes in pixels drown the scores that stand beside them

Values = Callable[[str], NDArray[np.float32]]


@dataclass(frozen=True)
class Parting:
    """The first node that differs, by how much (relative), and by how much its worst input does; `asked` counts the nodes that were looked at."""

    node: str
    difference: float
    input_difference: float
    asked: int


def relative_difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Length of the difference over the length of the first; 0 for two empty or all-zero arrays, infinite where something is not finite."""
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    scale = float(np.linalg.norm(ours.astype(np.float64)))
    change = float(np.linalg.norm(ours.astype(np.float64) - theirs.astype(np.float64)))
    return 0.0 if change == 0 else change / max(scale, 1e-12)


def first_parting(nodes: Sequence[str], parents: Mapping[str, Collection[str]], ours: Values, theirs: Values, tolerance: float) -> Parting | None:
    """The first of `nodes` (in topological order) whose numbers differ by more than `tolerance` while its parents' do not; None when no end of the
    graph differs. Asks about as few nodes as a bisection can: a difference is taken to reach every node behind it.
    """
    differences: dict[str, float] = {}

    def difference(node: str) -> float:
        if node not in differences:
            differences[node] = relative_difference(ours(node), theirs(node))
        return differences[node]

    suspect = next((node for node in _from_the_ends(nodes, parents)[:MOST_ENDS] if difference(node) > tolerance), None)
    if suspect is None:
        return None
    left = _ancestors(suspect, parents)
    while left:
        middle = max(sorted(left), key=lambda node: min(len(_ancestors(node, parents) & left), len(left) - len(_ancestors(node, parents) & left)))
        if difference(middle) > tolerance:
            suspect, left = middle, (_ancestors(middle, parents) & left) - {middle}
        else:
            left = left - _ancestors(middle, parents) - {middle}
    # a difference that shrinks on its way hides what lies before it from the bisection
    while earlier := [parent for parent in sorted(parents[suspect]) if difference(parent) > tolerance]:
        suspect = earlier[0]
    inputs = [difference(parent) for parent in sorted(parents[suspect])]
    return Parting(suspect, difference(suspect), max(inputs, default=0.0), len(differences))


def reason_for(
    kind: str,
    parting: Parting,
    weights: tuple[NDArray[np.float32] | None, NDArray[np.float32] | None],
    arithmetic: Sequence[tuple[str, str, str]],
) -> str:
    """Why a node of this kind differs, as far as can be told. `weights` are those of both sides; `arithmetic` holds (side, asked, computed) where a
    runtime tells in which type it computes the node.
    """
    if parting.difference < ADDS_UP * parting.input_difference:
        return "small differences of the nodes before it add up to this, no single one makes it"
    ours, theirs = weights
    if ours is not None and theirs is not None:
        changed = relative_difference(ours, theirs) if ours.shape == theirs.shape else float("inf")
        if changed > SAME_WEIGHTS:
            return f"the weights of this {kind} differ by {changed:.2%}"
    for side, asked, computed in arithmetic:
        if computed != asked:
            return f"{side} computes this {kind} in {computed} where {asked} was asked"
    return f"the same {kind} on the same input gives another output: compare the versions of the two runtimes"


def _from_the_ends(nodes: Sequence[str], parents: Mapping[str, Collection[str]]) -> list[str]:
    """All nodes, those first that nothing reads, then what they read, and so on."""
    read = {parent for node in nodes for parent in parents[node]}
    order = [node for node in reversed(nodes) if node not in read]
    seen = set(order)
    for node in order:  # grows while it is read
        new = sorted(set(parents[node]) - seen)
        order.extend(new)
        seen.update(new)
    return order


def _ancestors(node: str, parents: Mapping[str, Collection[str]]) -> set[str]:
    """The node and all that feeds it."""
    seen: set[str] = set()
    todo = [node]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo.extend(parents[current])
    return seen
