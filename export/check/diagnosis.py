"""What is wrong with a detector that does not find what it should? The usual faults of deployments, each tried out and called by its name.

Needs numpy and OpenCV only: the bundle's self-test uses it on the target machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from export.check.parity import Parity, compare, total
from export.runners.detect import Detector, NmsValues, above, detect, model_input, read_output
from pipelines.core.boxes import iou_matrix
from pipelines.core.contract import Decoding, ModelContract
from pipelines.core.images import Decoded, Letterbox, apply_letterbox, letterbox_for, read_for, tensor_from_letterboxed
from pipelines.core.types import Detections

GREY_LEVEL = 1.001 / 255  # another OpenCV may decode or resize a pixel one grey level off
PAD_VALUES = (114, 0, 127, 128, 255)  # the usual one first: of several that explain it, it is named
MAX_IMAGES = 8  # that a hypothesis is tried on
EXPLAINS = 0.9  # share of the boxes that must be right once a fault is undone
REST = 0.5  # share of the wrong boxes that may stay wrong then: any change of the input mends one or two of those that rounding moved
CLOSER = 10  # times closer scores, where no box is lost: what a hypothesis must make of them
SAME_SCORE = 1e-4  # runtimes that compute float32 differ by less
SAME_PLACE_IOU = 0.5


def stretched_input(image: Decoded, contract: ModelContract) -> NDArray[np.float32]:
    """The input of someone who resizes both sides on their own."""
    return tensor_from_letterboxed([cv2.resize(image.pixels, contract.input_wh, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)])


def padded_input(image: Decoded, contract: ModelContract, pad_value: int) -> tuple[NDArray[np.float32], Letterbox]:
    """The input with another padding."""
    box = letterbox_for(image.original_wh, contract.input_wh)
    return tensor_from_letterboxed([apply_letterbox(image.pixels, box, pad_value)]), box


def name_input_fault(made: NDArray[np.float32], wanted: NDArray[np.float32], image: Decoded, contract: ModelContract) -> str | None:
    """How a network input (1, 3, H, W) differs from the golden one of the same image; None when by at most one grey level."""
    if made.shape != wanted.shape:
        return f"shape: {made.shape} is fed where {wanted.shape} is wanted"
    if _close(made, wanted):
        return None
    if _close(made[:, ::-1], wanted):
        return "colour order: BGR is fed where RGB is wanted"
    for factor, words in ((255.0, "values from 0 to 255 are fed"), (1 / 255.0, "values are divided by 255 twice")):
        if _close(made / np.float32(factor), wanted):
            return f"scale: {words} where 0 to 1 is wanted"
    box = letterbox_for(image.original_wh, contract.input_wh)
    inside = np.zeros(wanted.shape[2:], dtype=bool)
    inside[box.top_px : box.top_px + box.resized_wh[1], box.left_px : box.left_px + box.resized_wh[0]] = True
    if not inside.all() and _close(made[..., inside], wanted[..., inside]):
        fed, asked = (float(np.median(item[..., ~inside])) * contract.divide_by for item in (made, wanted))
        return f"pad value: {fed:.0f} is fed where {asked:.0f} is wanted"
    if _close(made, stretched_input(image, contract)):
        return "geometry: the image is stretched where it should be letterboxed"
    return f"pixels: up to {float(np.abs(made - wanted).max()) * contract.divide_by:.0f} grey levels off (another resize, crop or decoder)"


@dataclass(frozen=True)
class Reference:
    """What should be found: image files and detections, one entry an image, and how they are compared; `thresholds` is (classes,)."""

    images: tuple[Path, ...]
    found: tuple[Detections, ...]
    thresholds: NDArray[np.float64]
    match_iou: float
    near_threshold: float
    nms: NmsValues

    def some(self) -> Reference:
        """At most MAX_IMAGES of the images on which most is shown."""
        shown = [len(above(item, self.thresholds)) for item in self.found]
        chosen = sorted(np.argsort([-count for count in shown], kind="stable")[:MAX_IMAGES])
        return replace(self, images=tuple(self.images[i] for i in chosen), found=tuple(self.found[i] for i in chosen))


def name_output_fault(runner: Detector, reference: Reference) -> str | None:
    """The fault that explains why `runner` does not find what the reference found: the one whose undoing leaves at most REST of what is wrong, and
    EXPLAINS of all boxes right. None when nothing is wrong with it, or nothing that is tried here.
    """
    part = reference.some()
    images = [read_for(path, runner.contract.decode_to_wh) for path in part.images]
    before = [detect(runner, image, part.nms) for image in images]
    agreement = _agreement(part, before)
    if agreement.share >= 1.0 and agreement.score_difference <= SAME_SCORE:
        return None
    answers = []
    for name, attempt in _hypotheses(runner, part.nms):
        answers.append((_agreement(part, [attempt(image) for image in images]), name))
    otherwise: Decoding = "full" if runner.contract.decoding == "reduced" else "reduced"
    decode_to_wh = replace(runner.contract, decoding=otherwise).decode_to_wh
    name = f"decoding: they agree when images are decoded as {otherwise}, the contract says {runner.contract.decoding}"
    answers.append((_agreement(part, [detect(runner, read_for(path, decode_to_wh), part.nms) for path in part.images]), name))
    best, name = max(answers, key=lambda item: (item[0].share, -item[0].score_difference))
    if best.explains(agreement):
        return name
    return _class_order(part, before, runner.contract.classes)


def _hypotheses(runner: Detector, nms: NmsValues) -> Iterator[tuple[str, Callable[[Decoded], Detections]]]:
    """A fault, and detection with that fault undone."""
    contract = runner.contract
    width, height = contract.input_wh

    def fed(tensor: NDArray[np.float32], box: Letterbox, original_wh: tuple[int, int]) -> Detections:
        return read_output(runner.infer(np.ascontiguousarray(tensor))[0], contract, box, original_wh, nms)

    def swapped(image: Decoded) -> Detections:
        tensor, box = model_input(image, contract)
        return fed(tensor[:, ::-1], box, image.original_wh)

    def scaled(image: Decoded) -> Detections:
        tensor, box = model_input(image, contract)
        return fed(tensor * np.float32(255), box, image.original_wh)

    def stretched(image: Decoded) -> Detections:
        return fed(stretched_input(image, contract), letterbox_for(image.original_wh, contract.input_wh), image.original_wh)

    def stretched_and_back(image: Decoded) -> Detections:
        found = fed(
            stretched_input(image, contract), letterbox_for((width, height), contract.input_wh), (width, height)
        )  # boxes in input pixels first
        sides = np.array([image.original_wh[0] / width, image.original_wh[1] / height] * 2, np.float32)
        return Detections(found.xyxy * sides, found.score, found.class_index)

    yield "colour order: they agree when red and blue are swapped, so one side has BGR where RGB is wanted", swapped
    for value in PAD_VALUES:
        if value != contract.pad_value:
            name = f"pad value: they agree when padded with {value}, the contract says {contract.pad_value}"
            yield name, lambda image, value=value: fed(*padded_input(image, contract, value), image.original_wh)  # type: ignore[misc]
    geometry = "geometry: they agree when the image is stretched, so one side does not letterbox"
    yield geometry, stretched
    yield geometry, stretched_and_back
    yield "scale: they agree on values from 0 to 255, so one side does not divide by 255", scaled


@dataclass(frozen=True)
class _Agreement:
    """`share` of the boxes of either side that have a partner, 1 when nothing is shown; the largest difference between partners' scores."""

    share: float
    score_difference: float

    def explains(self, before: _Agreement) -> bool:
        """Whether the fault whose undoing gave this is the one that gave `before`."""
        fewer = self.share > before.share and 1 - self.share <= REST * (1 - before.share)
        closer = self.share == before.share and self.score_difference * CLOSER <= before.score_difference
        return self.share >= EXPLAINS and (fewer or closer)


def _agreement(reference: Reference, found: Sequence[Detections]) -> _Agreement:
    parity = _parity(reference, found)
    wrong = sum(parity.total(name) for name in ("missed", "extra")) + 2 * parity.total("class_flips")
    right = 2 * parity.total("matched") + parity.total("near_threshold")
    return _Agreement(right / (right + wrong) if right + wrong else 1.0, parity.max_score_difference)


def _parity(reference: Reference, found: Sequence[Detections]) -> Parity:
    parts = [
        compare(ours, theirs, reference.thresholds, match_iou=reference.match_iou, near_threshold=reference.near_threshold)
        for ours, theirs in zip(reference.found, found, strict=True)
    ]
    return total(parts, len(reference.thresholds))


def _class_order(reference: Reference, found: Sequence[Detections], classes: Sequence[str]) -> str | None:
    """A permutation of classes that explains the boxes: each class of the reference is found at its place, under another name."""
    votes = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for ours, theirs in zip(reference.found, found, strict=True):
        shown, candidates = above(ours, reference.thresholds), above(theirs, reference.thresholds)
        overlap = iou_matrix(shown.xyxy, candidates.xyxy)
        for row in range(len(shown)):
            if len(candidates) and overlap[row].max() >= SAME_PLACE_IOU:
                votes[shown.class_index[row], candidates.class_index[int(overlap[row].argmax())]] += 1
    seen = np.flatnonzero(votes.sum(axis=1))
    taken = {int(row): int(votes[row].argmax()) for row in seen}
    if not taken or len(set(taken.values())) < len(taken) or all(row == column for row, column in taken.items()):
        return None
    if sum(votes[row, column] for row, column in taken.items()) < EXPLAINS * sum(len(above(item, reference.thresholds)) for item in reference.found):
        return None
    moved = ", ".join(f"{classes[row]} is found as {classes[column]}" for row, column in taken.items() if row != column)
    return f"class order: {moved}"


def _close(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return bool(np.abs(a - b).max(initial=0.0) <= GREY_LEVEL)
