"""Holding a built dataset against the leak gate's second look: who takes part, which pairs stop the run, which merely explain why an image left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipelines.core.types import LABELED_SPLITS, Sample
from pipelines.dataset.build import Dataset
from pipelines.dataset.leaks import Lookalikes, Member, find_lookalikes, require_no_lookalikes
from pipelines.dataset.looks import Look

LEFT_OUT = "left out"


def gate_samples(dataset: Dataset) -> list[Sample]:
    """The samples whose pictures the gate looks at: train, val, test, and what left them."""
    return [*(sample for split in LABELED_SPLITS for sample in dataset.splits[split]), *dataset.left.values()]


def check_pictures(dataset: Dataset, looks: Mapping[str, bytes], known: Mapping[str, Look]) -> list[Lookalikes]:
    """Pairs of an image that params.yaml leaves out and one that stays, for the metrics.

    An image that left because its near-duplicate stands on a higher side takes part where an imported list gave both their sides: the list is wrong,
    and that is for its owner to mend. Where only we put them there, its leaving has mended it.

    Raises:
        LeakError: one scene on two sides.
    """
    members = list(_members(dataset, known))
    left_given = {tie.dropped for tie in dataset.plan.cross}
    pairs = find_lookalikes(members, looks)
    leaks, explained = [], []
    for pair in pairs:
        if LEFT_OUT in (pair.a.side, pair.b.side):
            explained.append(pair)
        elif not {pair.a.image_id, pair.b.image_id} & left_given or (pair.a.given and pair.b.given):
            leaks.append(pair)
    require_no_lookalikes(leaks)
    return explained


def _members(dataset: Dataset, known: Mapping[str, Look]) -> Iterator[Member]:
    sides: list[tuple[str, Sequence[Sample]]] = [(split, dataset.splits[split]) for split in LABELED_SPLITS]
    sides += [(tie.dropped_split, (dataset.left[tie.dropped],)) for tie in dataset.plan.cross if _given(dataset, tie.dropped, tie.dropped_split)]
    sides.append((LEFT_OUT, [dataset.left[image_id] for image_id in dataset.left_out]))
    for side, samples in sides:
        for sample in samples:
            look = known.get(sample.image_id)
            yield Member(
                image_id=sample.image_id,
                origin=dataset.items[sample.image_id].origin,
                side=side,
                source=sample.source,
                captured_at=sample.captured_at,
                given=_given(dataset, sample.image_id, side),
                passed=look.passed if look and sample.image_id not in dataset.left else None,
            )


def _given(dataset: Dataset, image_id: str, side: str) -> bool:
    return dataset.items[image_id].given_split == side
