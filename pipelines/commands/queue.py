"""`detloop queue`: turn the mined list into a round of questions to people, a small file that goes into git, and show the rounds so far."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from pipelines.core.errors import DataError, ParamsError
from pipelines.core.io import read_jsonl, sha256_file, write_jsonl
from pipelines.core.params import load_params
from pipelines.core.records import read_annotations
from pipelines.mining.queue import draw_round, drawn_before, kinds_text
from pipelines.regression.cases import asked_cases, asked_row

RANKED = Path("data/badcases/ranked.jsonl")
BADCASES = Path("data/badcases/badcases.jsonl")
ANNOTATIONS = Path("data/labels/annotations.jsonl")
QUEUE = Path("data/queue")
PARAMS = Path("params.yaml")
_HASH_DIGITS = 16
_ROUND_NAME = re.compile(r"round-(\d{3,})\.jsonl")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add `accept` and `show`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    accept = actions.add_parser("accept", help="write the next round from the mined list", allow_abbrev=False)
    accept.add_argument("--budget", type=int, help="images to ask about (default: queue.budget of params.yaml)")
    accept.add_argument("--ranked", type=Path, default=RANKED, help=f"the mined list (default: {RANKED})")
    accept.add_argument("--params", type=Path, default=PARAMS, help=f"default: {PARAMS}")
    show = actions.add_parser("show", help="list the rounds, or the images of one", allow_abbrev=False)
    show.add_argument("--round", type=int, help="list the images of this round")
    for action in (accept, show):
        action.add_argument("--queue", type=Path, default=QUEUE, help=f"folder of the rounds (default: {QUEUE})")


def run(args: argparse.Namespace) -> int:
    """Do the asked action."""
    rounds = _read_rounds(args.queue)
    return _accept(args, rounds) if args.action == "accept" else _show(args, rounds)


def _accept(args: argparse.Namespace, rounds: dict[int, list[dict[str, Any]]]) -> int:
    budget = load_params(args.params).queue.budget if args.budget is None else args.budget
    if budget < 1:
        raise ParamsError(f"--budget {budget}: a round asks about at least 1 image")
    ranked = read_jsonl(args.ranked)
    ranked_hash = sha256_file(args.ranked)[:_HASH_DIGITS]
    earlier = [row for rows in rounds.values() for row in rows]
    before = drawn_before(ranked_hash, earlier)
    if before is not None:
        print(f"nothing added: round {before:03d} was already drawn from this list. Label it, then `dvc repro` makes the next list.")
        print(f"To draw it anew with another budget, remove {_path(args.queue, before)} first.")
        return 0
    number = max(rounds, default=0) + 1
    draw = draw_round(ranked, ranked_hash, earlier, number, budget)
    left_out = (
        f"left out: {draw.already_asked} asked in an earlier round, {draw.only_duplicates} with duplicates only, {draw.over_budget} over the budget"
    )
    if not draw.rows:
        print(f"nothing to ask: {len(ranked)} images ranked; {left_out}")
        return 0
    path = _path(args.queue, number)
    cases_path = args.queue / f"cases-{number:03d}.jsonl"
    cases = _write_cases(cases_path, {row["image_id"] for row in draw.rows}, number)
    write_jsonl(path, draw.rows)
    print(f"wrote {path}: {len(draw.rows)} images ({kinds_text(draw.rows)}); {left_out}")
    tests = sum(row["split"] == "test" for row in draw.rows)
    if tests:
        print(f"{tests} of them are test images: their labels are checked, the images never go into training")
    if cases:
        print(f"{cases} wrong boxes on them are noted: `detloop suite confirm` takes those that the new labels confirm into the regression suite")
    print(f"next: `git add {path}{f' {cases_path}' if cases else ''}` and commit, label these images, then `dvc repro`")
    return 0


def _write_cases(path: Path, image_ids: set[str], round_number: int) -> int:
    """Note the wrong boxes on a round's images for the regression suite; their number."""
    labels = {item.image_id: item for item in read_annotations(ANNOTATIONS)} if ANNOTATIONS.is_file() else {}
    cases = asked_cases(read_jsonl(BADCASES), image_ids, labels, round_number) if BADCASES.is_file() else []
    if cases:
        write_jsonl(path, [asked_row(item) for item in cases])
    return len(cases)


def _show(args: argparse.Namespace, rounds: dict[int, list[dict[str, Any]]]) -> int:
    if args.round is not None:
        if args.round not in rounds:
            raise DataError(f"there is no round {args.round} in {args.queue}: it has {sorted(rounds) or 'none'}")
        for row in rounds[args.round]:
            print(f"{row['rank']:4d}  {row['image_id'][:12]}  {row['split']:5s}  {row['score']:7.3f}  {'; '.join(row['reasons'])}")
        return 0
    for number, rows in rounds.items():
        print(f"round {number:03d}: {len(rows)} images ({kinds_text(rows)})")
    if not rounds:
        print(f"no round yet in {args.queue}: run `detloop queue accept`")
    return 0


def _path(queue: Path, number: int) -> Path:
    return queue / f"round-{number:03d}.jsonl"


def _read_rounds(queue: Path) -> dict[int, list[dict[str, Any]]]:
    """All rounds by number, ascending.

    Raises:
        DataError: a line lacks what this command wrote.
    """
    found = sorted((int(match[1]), path) for path in queue.glob("round-*.jsonl") if (match := _ROUND_NAME.fullmatch(path.name)))
    rounds = {}
    for number, path in found:
        rounds[number] = read_jsonl(path, "restore it from git")
        for line, row in enumerate(rounds[number], start=1):
            missing = [key for key in ("round", "rank", "image_id", "split", "kinds", "reasons", "score") if key not in row]
            if missing:
                raise DataError(f"{path} line {line} lacks {', '.join(missing)}: restore it from git")
    return rounds
