"""`detloop sample`: write the sample, so that the loop has something to run on; and answer its rounds of questions from the true labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipelines.core.io import read_jsonl
from pipelines.sample.answer import write_answers
from pipelines.sample.labels import POOL_SHARE
from pipelines.sample.write import write_sample


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--inbox", type=Path, default=Path("data/inbox"), help="the sample goes into its folder `sample` (default: %(default)s)")
    parser.add_argument("--labels", type=Path, default=Path("data/label_sources"), help="folder for sample.json (default: %(default)s)")
    parser.add_argument(
        "--truth", type=Path, default=Path("data/truth"), help="folder for the true labels, which no stage reads (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=240, help="how many camera frames (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another sample (default: %(default)s)")
    parser.add_argument("--unlabeled", type=float, default=POOL_SHARE, help="share of the frames that has no label yet (default: %(default)s)")
    parser.add_argument("--answer", type=int, metavar="ROUND", help="instead, label the images of this round of data/queue as people would")
    parser.add_argument("--queue", type=Path, default=Path("data/queue"), help="folder of the rounds, for --answer (default: %(default)s)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="write it anew where it is already")
    existing.add_argument("--if-empty", action="store_true", help="write nothing when the inbox holds anything")


def run(args: argparse.Namespace) -> int:
    """Write the sample or the answers; 0, also when `--if-empty` finds something in the inbox."""
    if args.answer is not None:
        asked = read_jsonl(args.queue / f"round-{args.answer:03d}.jsonl", "run `detloop queue accept`")
        path = write_answers(args.labels, asked, read_jsonl(args.truth / "truth.jsonl", "run `detloop sample`"), args.answer, args.seed)
        print(f"{path}: labels for the {len(asked)} images of round {args.answer}")
        return 0
    if args.if_empty and args.inbox.is_dir() and any(not entry.name.startswith(".") for entry in args.inbox.iterdir()):
        print(f"{args.inbox} is not empty: no sample is written")
        return 0
    written = write_sample(args.inbox, args.labels, args.truth, args.images, args.seed, args.force, args.unlabeled)
    print(f"{args.inbox / 'sample'}: {written.images} images, {written.boxes} objects; {written.tasks} tasks in {args.labels / 'sample.json'}")
    return 0
