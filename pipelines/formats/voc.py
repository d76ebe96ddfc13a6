"""Pascal VOC XML: one file an image, boxes as xmin, ymin, xmax, ymax.

The original devkit counts pixels from 1 and includes the last; labelImg, CVAT, BCCD and most tools since write plain pixel coordinates under the same
names, and a file does not say which it means. Taken here, both ways: coordinates are pixel edges counted from 0, as they are, so that a box over the
whole image is (0, 0, width, height). On a devkit file that puts left and top one pixel off and right and bottom exact. `difficult` and `truncated`
objects are boxes like others; parts of objects are not read.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.core.errors import DataError
from pipelines.core.types import Box
from pipelines.formats.reading import Problem, ReadBox, finite_numbers, positive_size

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocImage:
    """One XML file: the image's name as it stands there (perhaps empty), its size when stated, and its objects."""

    filename: str
    size_wh: tuple[int, int] | None
    boxes: tuple[ReadBox, ...]
    problems: tuple[Problem, ...]


def read_voc(content: bytes, name: str) -> VocImage:
    """Parse one XML file. Problems: missing_size, malformed_object, no_label.

    Raises:
        DataError: not XML, or not an `<annotation>`; `name` says which file.
    """
    try:
        root = ET.fromstring(content)
    except ET.ParseError as error:
        raise DataError(f"{name} is not XML ({error}): mend or remove it") from error
    if root.tag != "annotation":
        raise DataError(f"{name} is <{root.tag}>, wanted a VOC <annotation>: mend or remove it")
    boxes: list[ReadBox] = []
    problems: list[Problem] = []
    size_wh = positive_size(root.findtext("size/width"), root.findtext("size/height"))
    if size_wh is None:
        problems.append(Problem("missing_size", "size", "no width and height"))
    for number, item in enumerate(root.findall("object"), start=1):
        where = f"object {number}"
        label = (item.findtext("name") or "").strip()
        texts = [item.findtext(f"bndbox/{corner}") for corner in CORNERS]
        corners = finite_numbers(list(texts))
        if corners is None:
            problems.append(Problem("malformed_object", where, f"bndbox is {dict(zip(CORNERS, texts, strict=True))}"))
        elif not label:
            problems.append(Problem("no_label", where, f"a box without a name at {corners}"))
        else:
            boxes.append(ReadBox(Box(label, (corners[0], corners[1], corners[2], corners[3])), where))
    return VocImage((root.findtext("filename") or "").strip(), size_wh, tuple(boxes), tuple(problems))


def voc_from_boxes(filename: str, size_wh: tuple[int, int], boxes: Iterable[Box]) -> bytes:
    """The XML file of one image, UTF-8; coordinates keep their decimals."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = filename
    size = ET.SubElement(root, "size")
    for tag, value in (("width", size_wh[0]), ("height", size_wh[1]), ("depth", 3)):
        ET.SubElement(size, tag).text = str(value)
    for box in boxes:
        item = ET.SubElement(root, "object")
        ET.SubElement(item, "name").text = box.class_name
        corners = ET.SubElement(item, "bndbox")
        for tag, coordinate in zip(CORNERS, box.xyxy, strict=True):
            ET.SubElement(corners, tag).text = repr(int(coordinate) if coordinate == int(coordinate) else float(coordinate))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8")) + b"\n"
