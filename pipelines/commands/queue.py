"""`detloop queue`: one ranked list of what people should look at next; a round of it becomes a small file that goes into git."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from pipelines.commands.queue_first import first_inputs, is_first_round
from pipelines.commands.queue_inputs import QueueInputs, read_inputs
from pipelines.core.cli import add_action
from pipelines.core.errors import DataError, ParamsError, counted
from pipelines.core.io import numbered_jsonl, read_jsonl, write_jsonl
from pipelines.core.params import Params, load_params
from pipelines.core.records import read_annotations
from pipelines.mining.queue import Askable, Candidate, askable, draw_round, drawn_before, kinds_text, pool_room
from pipelines.mining.selection import select_images
from pipelines.regression.cases import asked_cases, asked_row

RANKED = Path("data/badcases/ranked.jsonl")
BADCASES = Path("data/badcases/badcases.jsonl")
ANNOTATIONS = Path("data/labels/annotations.jsonl")
QUEUE = Path("data/queue")
PARAMS = Path("params.yaml")
PROPOSAL = "proposal.jsonl"
_ROUND_NAME = re.compile(r"round-(\d{3,})\.jsonl")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add `build`, `accept` and `show`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = add_action(actions, "build", "propose the next round, to look at and change")
    accept = add_action(actions, "accept", "make the proposal the next round; without one, build it first")
    for action in (build, accept):
        action.add_argument("--budget", type=int, help="images to ask about (default: queue.budget of params.yaml)")
        action.add_argument("--ranked", type=Path, default=RANKED, help=f"the mined list (default: {RANKED})")
        action.add_argument("--params", type=Path, default=PARAMS, help=f"default: {PARAMS}")
    show = add_action(actions, "show", "list the proposal and the rounds, or the images of one")
    show.add_argument("--round", type=int, help="list the images of this round")
    for action in (build, accept, show):
        action.add_argument("--queue", type=Path, default=QUEUE, help=f"folder of the rounds (default: {QUEUE})")


def run(args: argparse.Namespace) -> int:
    """Do the asked action."""
    rounds = _read_rounds(args.queue)
    return {"build": _build, "accept": _accept, "show": _show}[args.action](args, rounds)


def _build(args: argparse.Namespace, rounds: dict[int, list[dict[str, Any]]]) -> int:
    drawn = _draw(args, rounds)
    if drawn is None:
        return 0
    rows, told = drawn
    path = args.queue / PROPOSAL
    write_jsonl(path, rows)
    for row in rows:
        print(_line(row))
    print(f"wrote {path}: {counted(len(rows), 'image')} ({kinds_text(rows)}); {told}")
    print("next: strike out the lines that you do not want, then `detloop queue accept`")
    return 0


def _accept(args: argparse.Namespace, rounds: dict[int, list[dict[str, Any]]]) -> int:
    number = max(rounds, default=0) + 1
    proposal = args.queue / PROPOSAL
    if proposal.is_file() and args.budget is not None:
        raise DataError(f"{proposal} is there, and --budget would draw anew: accept it without --budget, or remove it first")
    if proposal.is_file():
        rows, told = _read_rows(proposal), f"from {proposal}"
        now = _inputs(args, load_params(args.params)).hash
        if any(row.get("ranked") != now for row in rows):
            raise DataError(f"{proposal} was built from an older list: run `detloop queue build` again, or remove it")
        asked = {row["image_id"] for part in rounds.values() for row in part if not row.get("complaints")}
        rows = [row | {"round": number, "rank": rank} for rank, row in enumerate((row for row in rows if row["image_id"] not in asked), start=1)]
    else:
        drawn = _draw(args, rounds)
        if drawn is None:
            return 0
        rows, told = drawn
    if not rows:
        print(f"nothing to ask; {told}")
        return 0
    path = _path(args.queue, number)
    cases_path = args.queue / f"cases-{number:03d}.jsonl"
    cases = _write_cases(cases_path, {row["image_id"] for row in rows}, number)
    write_jsonl(path, rows)
    proposal.unlink(missing_ok=True)
    print(f"wrote {path}: {counted(len(rows), 'image')} ({kinds_text(rows)}); {told}")
    tests = sum(row["split"] == "test" for row in rows)
    if tests:
        print(f"{tests} of them are test images: their labels are checked, the images never go into training")
    if cases:
        print(f"{cases} wrong boxes on them are noted: `detloop suite confirm` takes those that the new labels confirm into the regression suite")
    print(f"next: `git add {path}{f' {cases_path}' if cases else ''}` and commit, label these images, then `dvc repro`")
    return 0


def _draw(args: argparse.Namespace, rounds: dict[int, list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], str] | None:
    """The next round out of all that is there, and what was left out; None, with a word to the user, where there is nothing new to draw from."""
    params = load_params(args.params)
    budget = params.queue.budget if args.budget is None else args.budget
    if budget < 1:
        raise ParamsError(f"--budget {budget}: a round asks about at least 1 image")
    inputs = _inputs(args, params)
    for note in inputs.notes:
        print(note)
    earlier = [row for rows in rounds.values() for row in rows]
    before = drawn_before(inputs.hash, earlier)
    if before is not None:
        print(f"nothing added: round {before:03d} was already drawn from this list. Label it, then `dvc repro` makes the next list.")
        print(f"To draw it anew with another budget, remove {_path(args.queue, before)} first.")
        return None
    number = max(rounds, default=0) + 1
    found = askable(inputs.candidates, earlier, inputs.clusters, inputs.labeled)
    order = _pool_order(inputs, found.pool, pool_room(found, budget, params.queue.pool_fraction), params)
    rows = draw_round(found, inputs.hash, number, budget, pool_fraction=params.queue.pool_fraction, pool_order=order)
    told = _left_out(found, len(rows))
    if not rows:
        print(f"nothing to ask: {counted(len(inputs.candidates), 'image')} ranked; {told}")
        return None
    return rows, told


def _inputs(args: argparse.Namespace, params: Params) -> QueueInputs:
    first = args.ranked == RANKED and not RANKED.is_file() and is_first_round()
    return first_inputs(params) if first else read_inputs(args.ranked, params)


def _pool_order(inputs: QueueInputs, found: list[Candidate], count: int, params: Params) -> list[str]:
    """The `count` unlabeled images among `found` that should be asked about, in their order; quotas and limits are shares of so many."""
    ranked = {item.image_id for item in found}
    rows = [row for row, image in enumerate(inputs.pool) if image.image_id in ranked]
    images = [inputs.pool[row] for row in rows]
    rules = params.queue
    taken = select_images(images, inputs.features[rows], inputs.known, count, params.class_names, rules.class_quota, rules.slice_limit)
    return [images[place].image_id for place in taken]


def _left_out(found: Askable, drawn: int) -> str:
    return (
        f"left out: {found.already_asked} asked in an earlier round, {found.only_duplicates} with duplicate boxes only,"
        f" {counted(found.near_duplicates, 'near-duplicate')} of a labeled or asked image, {len(found) - drawn} over the budget"
    )


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
            print(_line(row))
        return 0
    proposal = args.queue / PROPOSAL
    if proposal.is_file():
        rows = _read_rows(proposal)
        for row in rows:
            print(_line(row))
        print(f"proposal: {counted(len(rows), 'image')} ({kinds_text(rows)}); `detloop queue accept` makes it a round")
    for number, rows in rounds.items():
        print(f"round {number:03d}: {counted(len(rows), 'image')} ({kinds_text(rows)})")
    if not rounds:
        print(f"no round yet in {args.queue}: run `detloop queue accept`")
    return 0


def _line(row: dict[str, Any]) -> str:
    todo = "; ".join(row.get("actions", []))
    return f"{row['rank']:4d}  {row['image_id'][:12]}  {row['split']:5s}  {row['score']:7.3f}  {'; '.join(row['reasons'])} -> {todo}"


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
        rounds[number] = _read_rows(path)
    return rounds


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a round or a proposal.

    Raises:
        DataError: a line lacks what this command wrote.
    """
    rows = []
    for line, row in numbered_jsonl(path, "restore it from git"):
        missing = [key for key in ("round", "rank", "image_id", "split", "kinds", "reasons", "score") if key not in row]
        if missing:
            raise DataError(f"{path} line {line} lacks {', '.join(missing)}: restore it from git, or build it anew")
        rows.append(row)
    return rows
