"""What a model promises to whoever runs it: classes, input, letterbox, output layout. Travels in the checkpoint, the ONNX metadata and the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pipelines.core.errors import ClassContractError, DataError
from pipelines.core.io import canonical_json, sha256_bytes

PAD_VALUE = 114  # the grey that ultralytics pads with
OutputLayout = Literal["cxcywh_scores", "xyxy_score_class"]
Decoding = Literal["full", "reduced"]


def class_hash(classes: Sequence[str]) -> str:
    """Hash of the ordered class names, 16 hex digits: two models with the same hash mean the same by index i."""
    return sha256_bytes(canonical_json(list(classes)).encode())[:16]


def require_appended(before: Sequence[str], class_of: Mapping[str, str], where: str) -> None:
    """Hold the classes of params.yaml (`class_of`: every name and alias to its class, in order) against those of `before`, which `where` tells.

    Those come first, in their order, each by its name or as an alias: one has another name now, or several are one, at the place of any of them.

    Raises:
        ClassContractError: one is gone, or stands at another place.
    """
    classes = list(dict.fromkeys(class_of.values()))
    gone = [name for name in before if name not in class_of]
    today = [class_of[name] for name in before if name in class_of]
    rest = iter(today)
    if gone:
        wrong = f"{where} knows {gone}, which params.yaml has neither as class nor as alias"
    elif not all(name in rest for name in classes[: len(set(today))]):  # each is looked for behind the one before
        wrong = f"{where} has the classes {list(before)}, params.yaml {classes}"
    else:
        return
    raise ClassContractError(
        f"{wrong}: classes are append-only; leave the old ones where they are and put new ones at the end; one that was renamed, or became part of"
        " another, stays as an alias; to go back to older classes, restore params.yaml and this record from one commit"
    )


@dataclass(frozen=True)
class ModelContract:
    """How to feed a detector and how to read it.

    `layout` is `cxcywh_scores`: raw output (N, 4 + classes, anchors), centre boxes in input pixels and a score in [0, 1] for each class, NMS to be
    done by the caller; or `xyxy_score_class`: NMS-free output (N, boxes, 6), corner boxes in input pixels, score, class index. `decoding` says which
    pixels the letterbox is made from: `full`, or `reduced` by the JPEG decoder as far as the input allows (`pipelines.core.images.reduction_for`).
    """

    classes: tuple[str, ...]
    input_wh: tuple[int, int]
    layout: OutputLayout
    pad_value: int = PAD_VALUE
    colour: str = "RGB"
    divide_by: float = 255.0
    decoding: Decoding = "full"
    input_name: str = "images"
    output_name: str = "output0"

    @property
    def class_hash(self) -> str:
        """See `class_hash`."""
        return class_hash(self.classes)

    @property
    def decode_to_wh(self) -> tuple[int, int] | None:
        """The (width, height) that an image may be reduced to while it is decoded; None: not at all."""
        return self.input_wh if self.decoding == "reduced" else None

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads; carries the class hash."""
        return {**asdict(self), "class_hash": self.class_hash}

    @staticmethod
    def from_json(value: Mapping[str, Any], where: str) -> ModelContract:
        """Read `to_json`'s object.

        Raises:
            DataError: keys are missing or unknown.
            ClassContractError: the hash does not fit the classes.
        """
        fields = dict(value)
        stated = fields.pop("class_hash", None)
        try:
            fields["classes"], fields["input_wh"] = tuple(fields["classes"]), tuple(fields["input_wh"])
            contract = ModelContract(**fields)
        except (KeyError, TypeError) as error:
            raise DataError(f"{where} has no readable model contract ({error}): export the model again") from error
        if stated != contract.class_hash:
            raise ClassContractError(f"{where} states class hash {stated}, its classes give {contract.class_hash}: export the model again")
        return contract

    def require_known_pixels(self) -> None:
        """Refuse a model that wants other pixels than this code makes.

        Raises:
            DataError: another colour order or scale than RGB divided by 255, or a decoding that is not known here.
        """
        if self.decoding not in get_args(Decoding):
            raise DataError(
                f"the model wants its images decoded as {self.decoding!r}, which this code does not know: use the detloop that exported it"
            )
        if self.colour != "RGB" or self.divide_by != 255.0:
            raise DataError(
                f"the model wants {self.colour} divided by {self.divide_by}, this code makes RGB divided by 255: use the detloop that exported it"
            )

    def require_classes(self, classes: Sequence[str], where: str) -> None:
        """Refuse a model whose classes are not `classes`.

        Raises:
            ClassContractError: they differ in names or order.
        """
        if tuple(classes) != self.classes:
            raise ClassContractError(
                f"{where} was made for classes {list(self.classes)}, params.yaml has {list(classes)}: run `dvc repro` to train anew"
            )
