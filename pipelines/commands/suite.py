"""`detloop suite`: turn the bad cases that people confirmed into permanent items of the regression suite, and show how the model does on it."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from pipelines.core.cli import add_action
from pipelines.core.errors import counted
from pipelines.core.io import read_jsonl
from pipelines.core.params import load_params
from pipelines.core.records import read_annotations
from pipelines.regression.cases import Answer, AskedCase, answer, read_asked
from pipelines.regression.suite import read_suite, with_confirmed, write_suite

PARAMS = Path("params.yaml")
QUEUE = Path("data/queue")
SUITE = Path("data/badcases/suite.jsonl")
ANNOTATIONS = Path("data/labels/annotations.jsonl")
RESULTS = Path("data/challenge/suite.jsonl")
_CASES_NAME = re.compile(r"cases-\d{3,}\.jsonl")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add `confirm` and `show`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    confirm = add_action(actions, "confirm", "take over the cases that people's new labels confirm")
    confirm.add_argument("--queue", type=Path, default=QUEUE, help="folder of the rounds and their cases (default: %(default)s)")
    confirm.add_argument("--annotations", type=Path, default=ANNOTATIONS, help="the labels (default: %(default)s)")
    confirm.add_argument("--params", type=Path, default=PARAMS, help="the file with the class contract (default: %(default)s)")
    show = add_action(actions, "show", "list the items and how the present model does on each")
    show.add_argument("--results", type=Path, default=RESULTS, help="the last results (default: %(default)s)")
    for action in (confirm, show):
        action.add_argument("--suite", type=Path, default=SUITE, help="the suite (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Do the asked action."""
    return _confirm(args) if args.action == "confirm" else _show(args)


def _confirm(args: argparse.Namespace) -> int:
    class_of = load_params(args.params).class_of
    labels = {item.image_id: item for item in read_annotations(args.annotations)}
    asked = [item for path in sorted(args.queue.glob("cases-*.jsonl")) if _CASES_NAME.fullmatch(path.name) for item in read_asked(path)]
    answers: dict[Answer, list[AskedCase]] = {"confirmed": [], "label_fault": [], "unanswered": []}
    for item in asked:
        answers[answer(item, labels.get(item.case.image_id), class_of)].append(item)
    suite = read_suite(args.suite)
    grown = with_confirmed(suite, answers["confirmed"])
    if len(grown) > len(suite):
        write_suite(args.suite, grown)
    kinds = Counter(item.case.kind for item in grown[len(suite) :])
    listed = f" ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})" if kinds else ""
    print(f"{counted(len(grown) - len(suite), 'new item')}{listed}, {len(grown)} in all")
    counts = {name: len(found) for name, found in answers.items()}
    print(
        f"of {len(asked)} cases asked about, {counts['confirmed']} are confirmed, {counts['label_fault']} were faults of the label, "
        f"{counts['unanswered']} have no new label"
    )
    if len(grown) > len(suite):
        print(f"next: commit {args.suite}; `dvc repro` scores every model on it from now on")
    return 0


def _show(args: argparse.Namespace) -> int:
    items = read_suite(args.suite)
    state = {row["id"]: row["state"] for row in read_jsonl(args.results)} if args.results.is_file() else {}
    for item in items:
        case = item.case
        history = " ".join(f"{number}:{'right' if right else 'wrong'}" for number, right in item.history) or "-"
        names = [case.class_name or "nothing", case.predicted_class or case.class_name or ""]
        what = names[0] if names[0] == names[1] else f"{names[0]} as {names[1]}"
        now = state.get(case.id, "not scored")
        print(f"{case.id[:8]}  round {item.round:03d}  {case.image_id[:12]}  {case.kind:10s} {what:24s} {now:10s} {history}")
    states = ", ".join(f"{name} {count}" for name, count in sorted(Counter(state.values()).items()))
    print(counted(len(items), "item") + (f": {states}" if state else ""))
    return 0
