"""The section `collect` of params.yaml: where images come from, what a download may cost, and how new ones are screened."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from pipelines.core.section import Fraction, Positive, PositiveFloat, Section


class SourceParams(Section, frozen=True, tag_field="type"):
    """What every source has: a name, which is its folder and its source in the manifest."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class FilesSource(SourceParams, frozen=True, tag="files"):
    """A folder with all that lies below it, or a glob."""

    path: str
    group: str | None = None


class VideoSource(SourceParams, frozen=True, tag="video"):
    """Clips, by path, folder or glob; each clip is a group."""

    path: str
    min_gap_s: Annotated[float, Meta(ge=0)] = 1.0
    min_change: Fraction = 0.01


class LogSource(SourceParams, frozen=True, tag="log"):
    """A product query log: CSV, JSON lines or Parquet. The image is a path (relative to `root`), an http(s) address or an object's address."""

    path: str
    where: str | None = None
    root: str | None = None
    image: str = "image"
    group: str | None = None
    captured_at: str | None = None
    split: str | None = None
    options: dict[str, Any] = {}


class UrlsSource(SourceParams, frozen=True, tag="urls"):
    """A text file with one http(s) address a line."""

    path: str


class StoreSource(SourceParams, frozen=True, tag="store"):
    """An object store that fsspec knows: a prefix or a glob."""

    url: Annotated[str, Meta(pattern=r"^[a-z0-9+]+://")]
    options: dict[str, Any] = {}


Source = FilesSource | VideoSource | LogSource | UrlsSource | StoreSource


class DownloadParams(Section, frozen=True):
    """What one download may cost."""

    max_mb: PositiveFloat = 100
    timeout_s: PositiveFloat = 60
    parallel: Annotated[int, Meta(ge=1, le=64)] = 8
    allow_private_addresses: bool = False


class ScreenParams(Section, frozen=True):
    """What the champion must see in an image that is kept; without a champion all are kept."""

    use: Literal["none", "champion"] = "none"
    classes: tuple[str, ...] = ()  # empty: any class
    score: Fraction = 0.25
    uncertainty: Fraction = 0.5


class SampleParams(Section, frozen=True):
    """How many images are kept at most, and over what they are spread."""

    budget: Positive | None = None
    by: tuple[Literal["source", "day", "month", "predicted_class"], ...] = ("source", "month", "predicted_class")


class CollectParams(Section, frozen=True):
    """Where images come from, and screening of new ones."""

    sources: tuple[Source, ...] = ()
    download: DownloadParams = DownloadParams()

    min_side_px: Positive = 32
    max_pixels: Positive = 50_000_000
    min_brightness: Annotated[float, Meta(ge=0, le=255)] = 8
    max_brightness: Annotated[float, Meta(ge=0, le=255)] = 250
    min_sharpness: Annotated[float, Meta(ge=0)] = 3
    near_radius_bits: Annotated[int, Meta(ge=0, le=16)] = 6
    near_max_difference: Annotated[float, Meta(ge=0, le=255)] = 12
    screen: ScreenParams = ScreenParams()
    sample: SampleParams = SampleParams()
    executor: Literal["local", "ray"] = "local"

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"collect.sources: the names {twice} stand twice: give each source its own")
