"""What an exported model says of itself: string pairs in the ONNX file, written here and read by every runner.

Needs no library beyond the standard one, so that a shipped bundle can use it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence

from pipelines.core.contract import ModelContract
from pipelines.core.errors import ClassContractError, DataError
from pipelines.core.io import canonical_json

CONTRACT_KEY = "detloop"
PRECISION_KEY = "detloop_precision"
CALIBRATION_KEY = "detloop_calibration"
THRESHOLDS_KEY = "detloop_thresholds"
FP32 = "fp32"
ULTRALYTICS_THRESHOLD = 0.25  # the `conf` of its predict


def metadata_from_contract(contract: ModelContract, *, stride: int) -> dict[str, str]:
    """The pairs for a model file: ours, and those that ultralytics reads back (names, imgsz, stride, task, batch, end2end)."""
    end2end = contract.layout == "xyxy_score_class"
    return {
        CONTRACT_KEY: canonical_json(contract.to_json()),
        PRECISION_KEY: FP32,
        "class_hash": contract.class_hash,
        "names": str(dict(enumerate(contract.classes))),
        "imgsz": str([contract.input_wh[1], contract.input_wh[0]]),
        "stride": str(stride),
        "task": "detect",
        "batch": "1",
        "channels": "3",
        "args": str({"dynamic": False, "nms": False}),
        "end2end": str(end2end),
    }


def contract_from_metadata(metadata: Mapping[str, str], where: str) -> ModelContract:
    """The contract that a model file carries; of one that ultralytics exported itself, what its own pairs say.

    Raises:
        DataError: the file was made by neither, or for what this code does not do.
        ClassContractError: the class hash does not fit the classes.
    """
    text = metadata.get(CONTRACT_KEY)
    if _is_of_ultralytics(metadata):
        return _contract_of_ultralytics(metadata, where)
    if text is None:
        raise DataError(f"{where} carries no `{CONTRACT_KEY}` metadata, so its classes and input are unknown: export it with `dvc repro export_onnx`")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} has no readable `{CONTRACT_KEY}` metadata ({error}): export it with `dvc repro export_onnx`") from error
    return ModelContract.from_json(value, where)


def thresholds_entry(thresholds: Mapping[str, float]) -> dict[str, str]:
    """The pair that says from which score up a detection of each class is shown, by class name."""
    return {THRESHOLDS_KEY: canonical_json(dict(thresholds))}


def thresholds_from_metadata(metadata: Mapping[str, str], classes: Sequence[str], where: str) -> dict[str, float] | None:
    """The score from which a detection of each class is shown, in class order; None where the file states none. ultralytics states none and shows
    everything from ULTRALYTICS_THRESHOLD up.

    Raises:
        DataError: the entry cannot be read.
        ClassContractError: it is for other classes.
    """
    if _is_of_ultralytics(metadata):
        return dict.fromkeys(classes, ULTRALYTICS_THRESHOLD)
    if THRESHOLDS_KEY not in metadata:
        return None
    try:
        stated = {str(name): float(value) for name, value in json.loads(metadata[THRESHOLDS_KEY]).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{where} has no readable `{THRESHOLDS_KEY}` metadata ({error}): export it with `dvc repro export_onnx`") from error
    if set(stated) != set(classes):
        raise ClassContractError(f"{where} has thresholds for {sorted(stated)}, its classes are {list(classes)}: run `dvc repro export_onnx`")
    return {name: stated[name] for name in classes}


def precision_from_metadata(metadata: Mapping[str, str], where: str) -> str:
    """fp32, fp16 or int8, as the file states it.

    Raises:
        DataError: it states none.
    """
    if _is_of_ultralytics(metadata):
        return FP32
    if PRECISION_KEY not in metadata:
        raise DataError(f"{where} carries no `{PRECISION_KEY}` metadata: export it with `dvc repro export_onnx`")
    return metadata[PRECISION_KEY]


def _is_of_ultralytics(metadata: Mapping[str, str]) -> bool:
    """Whether ultralytics wrote the file: this export writes these pairs as well, and one of its files that lost its contract is not theirs."""
    return {"names", "imgsz", "task"} <= set(metadata) and not any(key.startswith(CONTRACT_KEY) for key in metadata)


def _contract_of_ultralytics(metadata: Mapping[str, str], where: str) -> ModelContract:
    """The pairs are literals of Python: {0: 'bolt', …}, [height, width], the options of the export."""
    try:
        names, imgsz, args = (ast.literal_eval(metadata.get(key, "{}")) for key in ("names", "imgsz", "args"))
        classes = tuple(str(names[number]) for number in range(len(names)))
        height, width = (imgsz, imgsz) if isinstance(imgsz, int) else map(int, imgsz)
        without_nms = metadata.get("end2end") == "True" or bool(args.get("nms"))
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{where} has no readable metadata of ultralytics ({error!r}): export it again") from error
    if metadata["task"] != "detect":
        raise DataError(f"{where} is a model for the task {metadata['task']!r}: name one that detects")
    if args.get("half"):
        raise DataError(f"{where} takes and gives 16-bit floats: export it with half=False")
    return ModelContract(classes, (width, height), "xyxy_score_class" if without_nms else "cxcywh_scores")
