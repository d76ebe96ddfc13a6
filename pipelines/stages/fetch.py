"""Stage `fetch`: what `collect.sources` names, into data/fetched: a folder for each source, with a log as the inbox knows it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines.core.cli import stage_main
from pipelines.core.io import write_json
from pipelines.core.params import load_params

COUNTS_NAME = ".counts.json"  # a name that the inbox skips


def work(args: argparse.Namespace) -> None:
    """Fill the folder; without sources it holds the counts only."""
    params = load_params(args.params).collect
    counts: dict[str, Any] = {}
    if params.sources or args.fetched.exists():
        from pipelines.fetch.fetch import Places, fetch_all

        counts = fetch_all(params.sources, params.download, Places(Path(), args.fetched, args.work))
    write_json(args.fetched / COUNTS_NAME, counts)
    for name, count in counts.items():
        refused = "".join(f", {number} {reason}" for reason, number in count["refused"].items())
        print(f"fetch: {name}: {count['ready']} of {count['offered']} ready{refused}")


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
