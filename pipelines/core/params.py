"""params.yaml as frozen types: read once, in the stage, and refused with the key's name when a value is wrong or a key unknown.

The sections of collection and of deployment have files of their own.
"""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from msgspec import Meta
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.core.collect_params import CollectParams
from pipelines.core.contract import Decoding
from pipelines.core.deploy_params import BenchmarkParams, ExportParams, ReleaseParams, VerifyParams
from pipelines.core.errors import MissingInputError, ParamsError
from pipelines.core.section import Fraction, NotNegative, OpenFraction, Positive, PositiveFloat, Section, Text, section_from

UPLOAD = "upload"
InputSide = Annotated[int, Meta(ge=32, multiple_of=32)]


class ClassParams(Section, frozen=True):
    """One class of the contract."""

    name: Text
    aliases: tuple[str, ...] = ()


class LabelingParams(Section, frozen=True):
    """Where labels come from and how several opinions become one.

    A policy says what becomes of a region that is no ordinary box; `conflict` makes the whole image one, to be looked at by people.
    """

    source: Literal["files", "label_studio"] = "files"
    project: Annotated[str, Meta(min_length=3, max_length=50)] = "detloop"
    images: str = UPLOAD
    prelabel_score: Fraction = 0.3
    max_loss_fraction: Fraction = 0.1
    resolve: Literal["latest", "consensus", "ground_truth"] = "latest"
    consensus_iou: Fraction = 0.5
    past_edge: Literal["clip", "drop", "conflict"] = "clip"
    rotated: Literal["drop", "bounding_box", "conflict"] = "drop"
    polygon: Literal["drop", "bounding_box", "conflict"] = "drop"
    brush: Literal["drop", "conflict"] = "drop"
    keypoint: Literal["drop", "conflict"] = "drop"
    unknown_class: Literal["refuse", "drop", "conflict"] = "refuse"
    zero_area: Literal["drop", "conflict"] = "drop"
    duplicate_region_id: Literal["keep", "conflict"] = "keep"
    min_box_side_px: PositiveFloat = 1

    def __post_init__(self) -> None:
        try:
            named = {name for _, name, _, _ in Formatter().parse(self.images) if name is not None}
        except ValueError:
            named = {""}
        if self.images != UPLOAD and (not named or named - {"path", "image_id"}):  # else all tasks would show one picture
            raise ValueError(
                f"labeling.images = {self.images!r}: wanted `upload`, or an address with {{path}} or {{image_id}}, which tells the image"
            )


class DatasetParams(Section, frozen=True):
    """How the split falls."""

    val_fraction: OpenFraction = 0.15
    test_fraction: OpenFraction = 0.2
    given_split: bool = True
    leave_out: tuple[str, ...] = ()
    seed: int = 0


class AugmentationParams(Section, frozen=True):
    """One albumentations transform, by its class name and arguments."""

    name: str
    args: dict[str, Any] = {}


class TrainParams(Section, frozen=True):
    """One training."""

    model: str = "yolo11n.yaml"
    from_champion: Positive | None = None
    replay: Fraction = 0.5
    imgsz: InputSide = 320
    input_wh: Literal["auto", "square"] | tuple[InputSide, InputSide] = "auto"
    decoding: Decoding = "reduced"
    epochs: Positive = 40
    patience: NotNegative = 40
    batch: Positive = 8
    nominal_batch: Positive = 64
    optimizer: Literal["auto", "SGD", "Adam", "AdamW", "MuSGD"] = "auto"
    lr0: PositiveFloat = 0.01
    cos_lr: bool = False
    device: NotNegative | Annotated[str, Meta(pattern=r"^(auto|cpu|mps|\d+(,\d+)*)$")] = "auto"
    workers: NotNegative = 0
    seed: int = 0
    precision: Literal["auto", "f32", "bf16"] = "auto"
    mosaic: Fraction = 1.0
    close_mosaic: NotNegative = 10
    fliplr: Fraction = 0.5
    flipud: Fraction = 0.0
    scale: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    translate: Fraction = 0.1
    hsv_h: Fraction = 0.015
    hsv_s: Fraction = 0.7
    hsv_v: Fraction = 0.4
    augmentations: tuple[AugmentationParams, ...] = ()


class PredictParams(Section, frozen=True):
    """From raw output to stored detections."""

    score_floor: OpenFraction = 0.001
    iou_threshold: Fraction = 0.7
    max_detections: Positive = 300
    batch: Positive = 8
    executor: Literal["local", "ray"] = "local"


class EvaluateParams(Section, frozen=True):
    """Slices and threshold search."""

    small_area_px: PositiveFloat = 1024
    medium_area_px: PositiveFloat = 9216
    dark_below: float = 60
    bright_above: float = 190
    min_score: Fraction = 0.05

    def __post_init__(self) -> None:
        for low, high in (("small_area_px", "medium_area_px"), ("dark_below", "bright_above")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"evaluate.{low} = {getattr(self, low):g} is above evaluate.{high} = {getattr(self, high):g}: correct one of them")


class ChampionParams(Section, frozen=True):
    """When a candidate takes the champion's place."""

    metric: Literal["AP", "AP50"] = "AP"
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] = 0.95
    tolerance: Fraction = 0.01
    resamples: Annotated[int, Meta(ge=200)] = 1000
    seed: int = 0


class MineParams(Section, frozen=True):
    """Typed errors."""

    splits: Annotated[tuple[Literal["train", "val", "test"], ...], Meta(min_length=1)] = ("val", "test")
    foreground_iou: Fraction = 0.5
    background_iou: Fraction = 0.1
    gallery_images: Positive = 60
    folds: Annotated[int, Meta(ge=0, le=10)] = 0
    fold_epochs: NotNegative = 0
    suspect_score: Fraction = 0.4

    def __post_init__(self) -> None:
        if self.folds == 1:
            raise ValueError("mine.folds = 1: one fold leaves nothing to train on: set it to 0 (none) or to 2 and more")
        if self.background_iou > self.foreground_iou:
            raise ValueError(f"mine.background_iou = {self.background_iou:g} is above mine.foreground_iou = {self.foreground_iou:g}: correct one")


class QueueParams(Section, frozen=True):
    """How much one round asks of people."""

    budget: Positive = 40
    pool_fraction: Fraction = 0.5
    class_quota: Fraction = 0.1
    slice_limit: Annotated[float, Meta(gt=0, le=1)] = 0.6


class ReportParams(Section, frozen=True):
    """What the report shows."""

    gallery_images: Positive = 60
    cases: Positive = 10_000


class Params(Section, frozen=True):
    """The whole of params.yaml."""

    classes: Annotated[tuple[ClassParams, ...], Meta(min_length=1)]
    collect: CollectParams = CollectParams()
    labeling: LabelingParams = LabelingParams()
    dataset: DatasetParams = DatasetParams()
    train: TrainParams = TrainParams()
    predict: PredictParams = PredictParams()
    evaluate: EvaluateParams = EvaluateParams()
    champion: ChampionParams = ChampionParams()
    mine: MineParams = MineParams()
    queue: QueueParams = QueueParams()
    export: ExportParams = ExportParams()
    verify: VerifyParams = VerifyParams()
    benchmark: BenchmarkParams = BenchmarkParams()
    release: ReleaseParams = ReleaseParams()
    report: ReportParams = ReportParams()

    def __post_init__(self) -> None:
        names = [name for item in self.classes for name in (item.name, *item.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"classes: the names {twice} stand twice (names and aliases together must be unique)")
        odd = [item.name for item in self.classes if not item.name.isprintable() or item.name != item.name.strip()]
        if odd:  # label files of other tools do not keep them
            raise ValueError(f"classes: {odd} have a space at an end or a sign that is not seen: rename them (an alias may keep the old name)")
        strangers = sorted(set(self.collect.screen.classes) - {item.name for item in self.classes})
        if strangers:
            raise ValueError(f"collect.screen.classes: {strangers} are no classes of this file")
        if self.dataset.val_fraction + self.dataset.test_fraction >= 1:
            raise ValueError("dataset: val_fraction and test_fraction leave nothing to train on (their sum must be below 1)")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in index order."""
        return tuple(item.name for item in self.classes)

    @property
    def class_of(self) -> dict[str, str]:
        """Every name and alias to the class's name."""
        return {alias: item.name for item in self.classes for alias in (item.name, *item.aliases)}


def load_params(path: Path) -> Params:
    """Read params.yaml (YAML 1.2, as DVC reads it).

    Raises:
        MissingInputError: no such file.
        ParamsError: one line that names every wrong or unknown key.
    """
    if not path.is_file():
        raise MissingInputError(f"{path} is missing: go to the project's folder, or restore it from git")
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path} holds no mapping: restore it from git")
    try:
        return section_from(raw, Params)
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from error
