"""One sync: the opinions of all sources and the manifest's images in, one label an image out, with every issue and the figures.

The unit of work is an image with all opinions on it. One whose opinions and whose row of the manifest stayed is taken from the memory; so the cost is
that of what is new, and there is one way only in which a label comes about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from pipelines.core.io import canonical_json
from pipelines.core.records import annotation_from_row, row_from_annotation
from pipelines.core.types import Annotation
from pipelines.labeling.memory import ISSUES_SCHEMA, OUTCOMES_SCHEMA, Memory
from pipelines.labeling.opinions import Issue, Opinion, Policies, Verdict, issue_from_json, judge, require_known_classes
from pipelines.labeling.resolve import Resolved, resolve
from pipelines.labeling.sources import Sources
from pipelines.labeling.summary import figures_of_image, summarize

IMAGES = ("origin", "image_id", "status", "reason", "width_px", "height_px")  # what a sync reads of the manifest
_KEPT, _DROPPED, _UNKNOWN = "kept", "dropped", "unknown"


@dataclass(frozen=True)
class Synced:
    """What became of the images (`outcomes` as in `memory`, without their issues), and what is told about it (`issue_table`, ISSUES_SCHEMA, sorted).

    `kept` has `image_id` and `origin` of the manifest's kept images. The snapshot and the figures are made when they are asked for.
    """

    sources: Sources
    outcomes: pl.DataFrame
    issue_table: pl.DataFrame
    kept: pl.DataFrame
    classes: Sequence[str]

    @cached_property
    def lines(self) -> pl.Series:
        """The snapshot as it is written, by image_id."""
        return self.outcomes.select("image_id", "line").drop_nulls("line").sort("image_id")["line"]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The figures."""
        return summarize(self.sources, self.outcomes, self.issue_table, self.kept, self.classes)

    @property
    def annotations(self) -> tuple[Annotation, ...]:
        """The snapshot."""
        return tuple(annotation_from_row(json.loads(line)) for line in self.lines)

    @property
    def issues(self) -> tuple[Issue, ...]:
        """The lines of the issues."""
        return tuple(issue_from_json(row) for row in self.issue_table.iter_rows(named=True))


def sync(
    sources: Sources, images: pl.DataFrame, classes: Sequence[str], policies: Policies, how: str, consensus_iou: float, memory: Memory
) -> Synced:
    """Resolve all labels. `images` has a row for each row of the manifest, the columns IMAGES; `memory` is one of these policies and rules.

    Raises:
        ClassContractError: labels of a class that `policies.class_of` lacks, where the policy is to refuse.
    """
    said = pl.concat(
        [
            pl.DataFrame(schema={"image_id": pl.String, "says": pl.String, "source": pl.Int32, "row": pl.UInt32}),
            *(
                source.table.select(
                    "image_id", "says", pl.lit(number, pl.Int32).alias("source"), pl.int_range(pl.len(), dtype=pl.UInt32).alias("row")
                )
                for number, source in enumerate(sources.sources)
            ),
        ]
    )
    kept = images.filter(pl.col("status") == "kept")
    alone = said["image_id"].is_unique()  # as most are: what nobody else spoke of needs no grouping
    several = said.filter(~alone).group_by("image_id", maintain_order=True).agg(pl.col("says").str.join(" "))
    units = pl.concat([said.filter(alone).select("image_id", "says"), several]).join(_facts(images, kept), "image_id", "left")
    units = units.with_columns(pl.col("fact").fill_null(_UNKNOWN)).with_columns(key=pl.concat_str("says", pl.lit(" "), "fact"))
    new = units.join(memory.outcomes, "key", "anti")
    _judge_new(new, said, sources, policies, how, consensus_iou, memory)
    outcomes = memory.outcomes.drop("issues").join(units.select("key"), "key", "semi")
    issues = _sorted(sources, memory.issues.join(units.select("key"), "key", "semi", maintain_order="left").drop("key"))
    memory.forget_others(units["key"])
    return Synced(sources, outcomes, issues, kept.select("image_id", "origin"), classes)


def _facts(images: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """What the manifest says of each image: `kept` and its size, or `dropped` and why."""
    size = pl.concat_str(pl.lit(f"{_KEPT} "), "width_px", pl.lit(" "), "height_px")
    others = (
        images.filter(pl.col("status") != "kept", pl.col("image_id").is_not_null()).unique("image_id", keep="last").join(kept, "image_id", "anti")
    )
    reason = pl.concat_str(pl.lit(f"{_DROPPED} "), pl.col("reason").fill_null("dropped"))
    return pl.concat([kept.select("image_id", fact=size), others.select("image_id", fact=reason)])


def _judge_new(new: pl.DataFrame, said: pl.DataFrame, sources: Sources, policies: Policies, how: str, consensus_iou: float, memory: Memory) -> None:
    """Put the outcomes of new units into the memory."""
    wanted = said.join(new.select("image_id"), "image_id", "semi", maintain_order="left")
    opinions: list[Opinion] = []
    for number, source in enumerate(sources.sources):
        opinions += source.opinions(wanted.filter(pl.col("source") == number)["row"].to_list())
    require_known_classes(opinions, policies)
    by_image: dict[str, list[Opinion]] = {}
    for opinion in opinions:
        by_image.setdefault(opinion.image_id, []).append(opinion)
    outcomes: list[dict[str, Any]] = []
    for image_id, key, fact in new.select("image_id", "key", "fact").iter_rows():
        kind, _, rest = fact.partition(" ")
        of_label: dict[str, str] = {}
        if kind == _KEPT:
            width, height = map(int, rest.split())
            verdicts = [judge(opinion, (width, height), policies) for opinion in by_image[image_id]]
            label = resolve(verdicts, how, consensus_iou)
            line = canonical_json(row_from_annotation(label.annotation(image_id, (width, height))))
            found = [*(issue for verdict in verdicts for issue in verdict.issues), *_issues_of_resolution(image_id, label, verdicts)]
            figures = canonical_json(figures_of_image(label, verdicts, policies.class_of, consensus_iou))
            of_label = {"line": line, "state": label.state, "source": label.source, "reason": label.reason, "figures": figures}
        else:
            detail = f"collect dropped the image: {rest}" if kind == _DROPPED else "no such image in the manifest"
            found = [Issue(opinion.source, image_id, opinion.name, "unmatched_image", detail, "not_used") for opinion in by_image[image_id]]
        outcomes.append({"key": key, "image_id": image_id, **of_label, "issues": [issue.to_json() for issue in found]})
    memory.add(pl.DataFrame(outcomes, schema=OUTCOMES_SCHEMA))


def _sorted(sources: Sources, issues: pl.DataFrame) -> pl.DataFrame:
    of_sources = [issue.to_json() for source in sources.sources for issue in source.issues]
    everything = pl.concat([pl.DataFrame(of_sources, schema=ISSUES_SCHEMA), issues])
    order = ["source", pl.col("image_id").fill_null(""), "annotation_id", "kind", "detail", "action"]
    return everything.sort(order, maintain_order=True)


def _issues_of_resolution(image_id: str, label: Resolved, verdicts: Sequence[Verdict]) -> Iterator[Issue]:
    names = ", ".join(f"{item.opinion.source}:{item.opinion.name or '-'}" for item in label.used)
    for item in verdicts:
        if not any(item is other for other in label.used):
            yield Issue(item.opinion.source, image_id, item.opinion.name, "superseded", f"the label is that of {names}", "not_used")
    if label.state == "conflict":
        ids = ",".join(sorted({name for item in label.used for name in item.opinion.annotation_ids}))
        detail = f"{label.reason}: " + "; ".join(_version(item) for item in label.used)
        yield Issue(label.source, image_id, ids, "conflict", detail, "conflict")


def _version(item: Verdict) -> str:
    boxes = ", ".join(f"{box.class_name} {list(box.xyxy)}" for box in sorted(item.boxes, key=lambda box: (box.class_name, box.xyxy)))
    return f"{item.opinion.source}:{item.opinion.name or '-'} says {item.reason or item.state}" + (f" [{boxes}]" if boxes else "")
