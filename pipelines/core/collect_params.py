"""The section `collect` of params.yaml: where images come from, what a download may cost, and how new ones are screened."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pipelines.core.section import Fraction, Positive, Section


class SourceParams(Section):
    """What every source has: a name, which is its folder and its source in the manifest."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class FilesSource(SourceParams):
    """A folder with all that lies below it, or a glob."""

    type: Literal["files"]
    path: str
    group: str | None = None


class VideoSource(SourceParams):
    """Clips, by path, folder or glob; each clip is a group."""

    type: Literal["video"]
    path: str
    min_gap_s: Annotated[float, Field(ge=0)] = 1.0
    min_change: Fraction = 0.01


class LogSource(SourceParams):
    """A product query log: CSV, JSON lines or Parquet. The image is a path (relative to `root`), an http(s) address or an object's address."""

    type: Literal["log"]
    path: str
    where: str | None = None
    root: str | None = None
    image: str = "image"
    group: str | None = None
    captured_at: str | None = None
    split: str | None = None
    options: dict[str, Any] = {}


class UrlsSource(SourceParams):
    """A text file with one http(s) address a line."""

    type: Literal["urls"]
    path: str


class StoreSource(SourceParams):
    """An object store that fsspec knows: a prefix or a glob."""

    type: Literal["store"]
    url: Annotated[str, Field(pattern=r"^[a-z0-9+]+://")]
    options: dict[str, Any] = {}


Source = Annotated[FilesSource | VideoSource | LogSource | UrlsSource | StoreSource, Field(discriminator="type")]


class DownloadParams(Section):
    """What one download may cost."""

    max_mb: Annotated[float, Field(gt=0)] = 100
    timeout_s: Annotated[float, Field(gt=0)] = 60
    parallel: Annotated[int, Field(ge=1, le=64)] = 8
    allow_private_addresses: bool = False


class ScreenParams(Section):
    """What the champion must see in an image that is kept; without a champion all are kept."""

    use: Literal["none", "champion"] = "none"
    classes: list[str] = []  # empty: any class
    score: Fraction = 0.25
    uncertainty: Fraction = 0.5


class SampleParams(Section):
    """How many images are kept at most, and over what they are spread."""

    budget: Positive | None = None
    by: list[Literal["source", "day", "month", "predicted_class"]] = ["source", "month", "predicted_class"]


class CollectParams(Section):
    """Where images come from, and screening of new ones."""

    sources: list[Source] = []
    download: DownloadParams = DownloadParams()

    min_side_px: Positive = 32
    max_pixels: Positive = 50_000_000
    min_brightness: Annotated[float, Field(ge=0, le=255)] = 8
    max_brightness: Annotated[float, Field(ge=0, le=255)] = 250
    min_sharpness: Annotated[float, Field(ge=0)] = 3
    near_radius_bits: Annotated[int, Field(ge=0, le=16)] = 6
    near_max_difference: Annotated[float, Field(ge=0, le=255)] = 12
    screen: ScreenParams = ScreenParams()
    sample: SampleParams = SampleParams()
    executor: Literal["local", "ray"] = "local"

    @field_validator("sources")
    @classmethod
    def _own_names(cls, value: list[Source]) -> list[Source]:
        names = [source.name for source in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the names {twice} stand twice: give each source its own")
        return value
