"""`detloop`: the command for people. Each subcommand is a module of `pipelines.commands`, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Collection, Sequence

from pipelines.core.cli import run_guarded

COMMANDS: dict[str, str] = {
    "doctor": "tell what this machine has, and what each lack costs",
    "new": "make a fresh project folder from this checkout",
    "sample": "write the sample: a product log, labels and the files that real folders hold",
    "import": "bring a labeled dataset in (voc, coco, yolo, labelstudio)",
    "analyze": "tell what is wrong with any model's detections (COCO files): COCO and TIDE figures, a row for each wrong box",
    "labels": "talk with the Label Studio that LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY name; serve and stop one on this machine",
    "export-dataset": "write the dataset as other tools want it (yolo, coco, voc, labelstudio)",
    "queue": "propose what to ask people next, and make it the round's queue",
    "suite": "take confirmed bad cases into the regression suite, and show it",
    "promote": "make this round's model the champion that later ones are held against",
    "noise": "train a few times with other seeds, so that the champion gate knows their noise",
    "predict": "run a released bundle on images",
    "parity": "hold one runner against another: boxes, the name of the fault, the first layer that differs",
    "ops": "list the operators of an ONNX model that a target lacks, and what to do",
    "engine": "build TensorRT engines from a bundle, on the machine that is to run them",
    "bundle": "test a released bundle on its golden vectors; write a Triton model repository or a container's build context",
    "serve": "answer images over HTTP with a released bundle",
    "report": "say where the report lies that `dvc repro` wrote",
}
ROUND = "A round itself is `dvc repro`: its stages stand in dvc.yaml, its values in params.yaml."
MODULES = {"import": "import_dataset", "export-dataset": "export_dataset"}  # where a command's name cannot be a module's


def main(argv: Sequence[str] | None = None, commands: Collection[str] = tuple(COMMANDS)) -> int:
    """Parse, import the one command, run it; its exit status. `commands` are those that are there: a bundle's program has a few only."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    about, epilog = "From raw images to a verified, deployable detector.", ROUND if "report" in commands else None
    parser = argparse.ArgumentParser(prog="detloop", description=about, epilog=epilog, allow_abbrev=False)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        if name not in commands:
            continue
        command = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        if arguments[:1] == [name]:
            module = importlib.import_module(f"pipelines.commands.{MODULES.get(name, name)}")
            module.configure(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    return run_guarded(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
