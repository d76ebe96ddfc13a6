"""Stage `screener`: the champion that screens new images, as a record of it alone; an empty one where `collect.screen` uses none, or there is none.

A stage of its own, so that a promotion reaches collect only where it matters there.
"""

from __future__ import annotations

import argparse

from pipelines.core.champion import ChampionRecord, read_champions, write_champions
from pipelines.core.cli import stage_main
from pipelines.core.params import load_params


def work(args: argparse.Namespace) -> None:
    """Write the record that collect reads."""
    use = load_params(args.params).collect.screen.use
    champion = read_champions(args.record).current if use == "champion" else None
    write_champions(args.screener, ChampionRecord(() if champion is None else (champion,)))
    print("screener: none" if champion is None else f"screener: champion {champion.number}")


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.screener",
        work,
        {"params": "params.yaml", "record": "champion.json", "screener": "file to write: champion.json with the screening champion alone"},
    )
