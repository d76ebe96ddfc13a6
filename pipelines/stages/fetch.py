"""Stage `fetch`: what `collect.sources` names, into data/fetched: a folder for each source, with a log as the inbox knows it."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.cli import stage_main
from pipelines.core.errors import counted
from pipelines.core.io import write_json
from pipelines.core.params import load_params

if TYPE_CHECKING:
    from pipelines.fetch.fetch import Fetched
    from pipelines.fetch.wanted import Wanted

COUNTS_NAME = ".counts.json"  # a name that the inbox skips


def work(args: argparse.Namespace) -> None:
    """Fill the folder; without sources it holds the counts only."""
    params = load_params(args.params).collect
    found: Mapping[str, Fetched] = {}
    if params.sources or args.fetched.exists():
        from pipelines.fetch.fetch import Places, fetch_all

        found = fetch_all(params.sources, params.download, Places(Path(), args.fetched, args.work))
    write_json(args.fetched / COUNTS_NAME, {name: _counts(source.items) for name, source in found.items()})
    for name, source in found.items():
        ready = sum(item.refused is None for item in source.items)
        told = [*_refusals(source.items), *_several_groups(source.items), *source.notes]
        print("\n  ".join([f"fetch: {name}: {ready} of {len(source.items)} ready", *told]))


def _counts(items: Sequence[Wanted]) -> dict[str, Any]:
    refused = Counter(item.refused for item in items if item.refused is not None)
    several = sum(bool(item.other_groups) for item in items)
    return {"offered": len(items), "ready": len(items) - refused.total(), "refused": dict(sorted(refused.items())), "in_several_groups": several}


def _refusals(items: Sequence[Wanted]) -> list[str]:
    """The refused by reason, of each reason the first in full; all of them stand in the manifest."""
    first: dict[str, Wanted] = {}
    for item in items:
        if item.refused is not None:
            first.setdefault(item.refused, item)
    counts = Counter(item.refused for item in items)
    return [
        f"{counts[reason]} {reason}: {ascii(item.uri)[1:-1]}{f' ({item.why})' if item.why else ''}{' and others' if counts[reason] > 1 else ''}"
        for reason, item in sorted(first.items())
    ]


def _several_groups(items: Sequence[Wanted]) -> list[str]:
    """Images that a log names under several groups, which may then be parted by the split."""
    found = [item for item in items if item.other_groups]
    if not found:
        return []
    first = found[0]
    names = ", ".join(ascii(name)[1:-1] for name in first.other_groups)
    return [
        f"{counted(len(found), 'image')} under several groups, of which the first counts: {ascii(first.uri)[1:-1]} ({first.group}, not {names});"
        " groups that share pictures should be one"
    ]


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.fetch",
        work,
        {
            "params": "params.yaml",
            "fetched": "folder to fill: a folder for each source",
            "work": "folder for downloads under way and what is known of clips",
        },
    )
