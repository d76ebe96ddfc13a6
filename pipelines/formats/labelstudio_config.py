"""Label Studio's labeling configuration (XML) from the class contract, and whether one that people made fits it. Pure.

Colours and hotkeys go by a class's place in the contract, which is append-only: they never change for a class.
"""

from __future__ import annotations

import colorsys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.errors import DataError

IMAGE_KEY, ASK_KEY = "image", "ask"  # the keys of a task's data that the configuration shows
_HOTKEYS = "1234567890qwertyuiop"  # free in Label Studio's image editor; later classes are clicked
_GOLDEN_RATIO = 0.6180339887498949  # steps of hue that stay far from all earlier ones


@dataclass(frozen=True)
class LabelingConfig:
    """What the sync needs of a configuration: names of its box control and image, the data key of the image, and the labels in order."""

    from_name: str
    to_name: str
    image_key: str
    labels: tuple[str, ...]

    def label_of(self, class_of: Mapping[str, str]) -> dict[str, str]:
        """Class name to the label that stands for it here: the name itself, or else the first alias."""
        found: dict[str, str] = {}
        for label in self.labels:
            name = class_of.get(label)
            if name is not None and (name not in found or label == name):
                found[name] = label
        return found


def colour(position: int) -> str:
    """The colour of the class at `position` in the contract, as `#rrggbb`."""
    red, green, blue = colorsys.hls_to_rgb((position * _GOLDEN_RATIO) % 1.0, 0.5, 0.85)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def config_from_classes(classes: Sequence[str]) -> str:
    """The configuration of a new project: why the image is asked, the image, upright boxes of the contract's classes."""
    view = ET.Element("View")
    ET.SubElement(view, "Header", value=f"${ASK_KEY}", size="5")
    ET.SubElement(view, "Image", name="image", value=f"${IMAGE_KEY}", zoom="true", zoomControl="true", rotateControl="false")
    control = ET.SubElement(view, "RectangleLabels", name="label", toName="image", canRotate="false")
    for position, name in enumerate(classes):
        label = ET.SubElement(control, "Label", value=name, background=colour(position))
        if position < len(_HOTKEYS):
            label.set("hotkey", _HOTKEYS[position])
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def read_config(xml: str, where: str) -> LabelingConfig:
    """Read a configuration.

    Raises:
        DataError: not XML, or not one `RectangleLabels` on one `Image`.
    """
    try:
        root = ET.fromstring(xml)
    except ET.ParseError as error:
        raise DataError(f"{where} has a labeling configuration that is not XML ({error}): mend it in the project's settings") from error
    controls = root.findall(".//RectangleLabels")
    if len(controls) != 1:
        raise DataError(f"{where} has {len(controls)} RectangleLabels in its labeling configuration, wanted 1: mend it in the project's settings")
    control = controls[0]
    to_name = control.get("toName", "")
    image = next((item for item in root.iter("Image") if item.get("name") == to_name), None)
    value = "" if image is None else image.get("value", "")
    if not value.startswith("$"):
        raise DataError(f"{where} has RectangleLabels on {to_name!r}, which is no Image with a value like $image: mend it in the project's settings")
    labels = tuple(item.get("value", "") for item in control.findall("Label"))
    return LabelingConfig(control.get("name", ""), to_name, value.removeprefix("$"), labels)


def differences(config: LabelingConfig, classes: Sequence[str], class_of: Mapping[str, str]) -> tuple[str, ...]:
    """What keeps a configuration from fitting the contract, a phrase each; empty when it fits. An alias may stand for its class."""
    found = config.label_of(class_of)
    said = [f"it lacks the label {name}" for name in classes if name not in found]
    said += [f"its label {label} is no class" for label in config.labels if label not in class_of]
    if config.image_key != IMAGE_KEY:
        said.append(f"it shows the image ${config.image_key}, wanted ${IMAGE_KEY}")
    return tuple(said)
