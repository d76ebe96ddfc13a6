"""The sections `export`, `verify`, `benchmark` and `release` of params.yaml: from the trained model to what ships."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, field

from pipelines.core.section import Fraction, NotNegative, OpenFraction, Positive, PositiveFloat, Section

Precision = Literal["fp32", "fp16", "int8"]


class ExportParams(Section, frozen=True):
    """ONNX, precisions, engines."""

    opset: Annotated[int, Meta(ge=13)] = 17
    calibration_images: Positive = 64
    int8_keep_float: Literal["none", "head"] = "head"
    int8_activations: Literal["exact", "fitted"] = "exact"
    fp16_activations: Literal["exact", "fitted"] = "exact"
    max_relative_drop: Fraction = 0.01
    max_class_relative_drop: Fraction = 0.03
    engines: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class VerifyParams(Section, frozen=True):
    """When an artifact still counts as the same model."""

    match_iou: dict[Precision, Fraction] = field(default_factory=lambda: {"fp32": 0.9, "fp16": 0.9, "int8": 0.5})
    near_threshold: Fraction = 0.02
    max_relative_drop: dict[Precision, Fraction] = field(default_factory=lambda: {"fp32": 0.002, "fp16": 0.005, "int8": 0.02})
    max_class_relative_drop: dict[Precision, Fraction] = field(default_factory=lambda: {"fp32": 0.005, "fp16": 0.02, "int8": 0.05})
    max_score_difference: Fraction = 0.001

    def __post_init__(self) -> None:
        for key in ("match_iou", "max_relative_drop", "max_class_relative_drop"):
            missing = [name for name in get_args(Precision) if name not in getattr(self, key)]
            if missing:
                raise ValueError(f"verify.{key}: a value for {', '.join(missing)} is missing: add it")


class BenchmarkParams(Section, frozen=True):
    """How long to measure."""

    images: Positive = 40
    warmup: NotNegative = 5
    rounds: Positive = 3
    threads: Positive = 2
    score_floor: OpenFraction = 0.05


class ReleaseParams(Section, frozen=True):
    """What may ship."""

    min_ap50: Fraction = 0.5
    verdicts: tuple[Literal["promote", "inconclusive", "reject"], ...] = ("promote", "inconclusive")
    max_p99_ms: PositiveFloat = 500
    max_size_mb: PositiveFloat = 200
    max_memory_mb: PositiveFloat = 2000
    golden_images: Positive = 4
