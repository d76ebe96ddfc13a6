"""`detloop sample`: write the sample, so that the loop has something to run on."""

from __future__ import annotations

import argparse
from pathlib import Path

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
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="write it anew where it is already")
    existing.add_argument("--if-empty", action="store_true", help="write nothing when the inbox holds anything")


def run(args: argparse.Namespace) -> int:
    """Write the sample; 0, also when `--if-empty` finds something in the inbox."""
    if args.if_empty and args.inbox.is_dir() and any(not entry.name.startswith(".") for entry in args.inbox.iterdir()):
        print(f"{args.inbox} is not empty: no sample is written")
        return 0
    written = write_sample(args.inbox, args.labels, args.truth, args.images, args.seed, args.force)
    print(f"{args.inbox / 'sample'}: {written.images} images, {written.boxes} objects; {written.tasks} tasks in {args.labels / 'sample.json'}")
    return 0
