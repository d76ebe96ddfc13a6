"""The sections `export`, `verify`, `benchmark` and `release` of params.yaml: from the trained model to what ships."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from pipelines.core.section import Fraction, Positive, Section

Precision = Literal["fp32", "fp16", "int8"]


class ExportParams(Section):
    """ONNX, precisions, engines."""

    opset: Annotated[int, Field(ge=13)] = 17
    calibration_images: Positive = 64
    int8_keep_float: Literal["none", "head"] = "head"
    max_relative_drop: Fraction = 0.01
    max_class_relative_drop: Fraction = 0.03
    engines: list[Precision] = ["fp32", "fp16", "int8"]


class VerifyParams(Section):
    """When an artifact still counts as the same model."""

    match_iou: dict[Precision, Fraction] = {"fp32": 0.9, "fp16": 0.9, "int8": 0.5}
    near_threshold: Fraction = 0.02
    max_relative_drop: dict[Precision, Fraction] = {"fp32": 0.002, "fp16": 0.005, "int8": 0.02}
    max_class_relative_drop: dict[Precision, Fraction] = {"fp32": 0.005, "fp16": 0.02, "int8": 0.05}
    max_score_difference: Fraction = 0.001

    @field_validator("match_iou", "max_relative_drop", "max_class_relative_drop")
    @classmethod
    def _every_precision(cls, value: dict[Precision, float]) -> dict[Precision, float]:
        missing = [name for name in get_args(Precision) if name not in value]
        if missing:
            raise ValueError(f"a value for {', '.join(missing)} is missing: add it")
        return value


class BenchmarkParams(Section):
    """How long to measure."""

    images: Positive = 40
    warmup: Annotated[int, Field(ge=0)] = 5
    rounds: Positive = 3
    threads: Positive = 2
    score_floor: Annotated[float, Field(gt=0, lt=1)] = 0.05


class ReleaseParams(Section):
    """What may ship."""

    min_ap50: Fraction = 0.5
    verdicts: list[Literal["promote", "inconclusive", "reject"]] = ["promote", "inconclusive"]
    max_p99_ms: Annotated[float, Field(gt=0)] = 500
    max_size_mb: Annotated[float, Field(gt=0)] = 200
    max_memory_mb: Annotated[float, Field(gt=0)] = 2000
    golden_images: Positive = 4
