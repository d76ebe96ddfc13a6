"""Stage report: everything that the round measured, and every bad case, as two HTML pages that load nothing from elsewhere."""

from __future__ import annotations

import argparse

from pipelines.core.cli import stage_main
from pipelines.core.io import write_folder
from pipelines.core.params import load_params
from pipelines.report.cases import read_cases
from pipelines.report.inputs import read_inputs
from pipelines.report.page import CASES_PAGE, render, render_cases

PAGE = "index.html"


def work(args: argparse.Namespace) -> None:
    """Read, render, write the report's folder."""
    params = load_params(args.params)
    inputs = read_inputs(
        classes=params.class_names,
        metrics=args.metrics,
        training=args.training,
        evaluation=args.evaluation,
        badcases=args.badcases,
        dataset=args.dataset,
        raw=args.raw,
        release=args.release,
        champion=args.champion,
        challenge=args.challenge,
        gallery_images=params.report.gallery_images,
    )
    content = render(inputs).encode()
    samples = [sample for part in inputs.samples.values() for sample in part]
    cases = render_cases(read_cases(inputs.badcases or [], samples, args.raw, params.report.cases)).encode()
    write_folder(args.report, {PAGE: content, CASES_PAGE: cases})
    print(f"report: {args.report / PAGE} ({len(content) / 1e6:.1f} MB), {CASES_PAGE} ({len(cases) / 1e6:.1f} MB)")


if __name__ == "__main__":
    stage_main(
        "pipelines.stages.report",
        work,
        {
            "params": "params.yaml",
            "metrics": "folder of the metrics files",
            "training": "folder of the training curves",
            "evaluation": "folder of the evaluation",
            "badcases": "folder of the bad cases, their ranking and gallery",
            "dataset": "folder of the dataset",
            "raw": "folder that the samples' paths are relative to",
            "release": "folder of the bundle",
            "champion": "champion.json",
            "challenge": "folder of the suite's results",
            "report": "folder to write",
        },
    )
