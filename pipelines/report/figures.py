"""Charts as inline SVG: lines, horizontal bars, a scatter. Colours, fonts and dark mode come from the page's style sheet, by class.

A chart is markup without scripts; each mark carries a `<title>` (a browser shows it on hover), series differ by dash as well as by colour, and the
whole has an `aria-label` that says what it shows. Numbers are drawn with fixed decimals, so the same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

PALETTE_SIZE = 8  # classes c0 to c7 in report.css; more series repeat the colours with another dash
DASHES = ("", "7 3", "2 3", "9 3 2 3")
CHAR_PX = 6.4  # mean width of a character at the charts' 12 px


@dataclass(frozen=True)
class Series:
    """One line or set of points: `points` are (x, y); `marks` are points drawn as dots with a text for each."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[tuple[float, float, str]] = field(default=())


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover `low` to `high`, about `wanted` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def plain(value: float) -> str:
    """A tick as people write it: no needless zeros, thousands with a thin gap."""
    if abs(value) >= 10000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.6g}"


def percent_tick(value: float) -> str:
    """A fraction as whole percent."""
    return f"{value * 100:g}\u202f%"


@dataclass(frozen=True)
class Frame:
    """Where the axes lie, in the SVG's units, and how values map onto them."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float
    right: float
    top: float
    bottom: float
    log_x: bool = False

    def at_x(self, value: float) -> float:
        """Horizontal position of a value."""
        low, high, value = (math.log10(item) for item in (*self.x, value)) if self.log_x else (*self.x, value)
        return self.left + (value - low) / (high - low or 1) * (self.right - self.left)

    def at_y(self, value: float) -> float:
        """Vertical position of a value."""
        return self.bottom - (value - self.y[0]) / (self.y[1] - self.y[0] or 1) * (self.bottom - self.top)


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    y_tick: Callable[[float], str] = plain,
    vertical: tuple[float, str] | None = None,
    width: int = 460,
    height: int = 270,
) -> Markup | None:
    """Lines over a common x; `vertical` is one dashed line with a text (the best epoch). None when there is nothing to draw."""
    shown = [item for item in series if item.points]
    if not shown:
        return None
    xs = [x for item in shown for x, _ in item.points]
    ys = [y for item in shown for _, y in item.points]
    x_ticks = ticks(*(x_range or (min(xs), max(xs))), wanted=6)
    y_ticks = ticks(*(y_range or (min(0.0, min(ys)), max(ys) or 1.0)))
    legend_rows = _legend_rows([item.name for item in shown], width - 60)
    top = 12.0 + 18 * len(legend_rows) + (12 if vertical else 0)
    left = _left_of_axis([y_tick(value) for value in y_ticks], y_label)
    frame = Frame(x_range or (min(xs), max(xs)), (y_ticks[0], y_ticks[-1]), left, width - 14, top, height - 40)
    parts = [_axes(frame, x_ticks, y_ticks, plain, y_tick, x_label, y_label)]
    if vertical is not None:
        x = frame.at_x(vertical[0])
        near_right = x > (frame.left + frame.right) / 2
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top - 2:.1f}" y2="{frame.bottom:.1f}"/>')
        anchor, shift = ("end", 3) if near_right else ("start", -3)
        parts.append(f'<text class="note" x="{x + shift:.1f}" y="{frame.top - 4:.1f}" text-anchor="{anchor}">{escape(vertical[1])}</text>')
    for index, item in enumerate(shown):
        path = "M" + "L".join(f"{frame.at_x(x):.1f} {frame.at_y(y):.1f}" for x, y in item.points)
        parts.append(f'<path class="line {_colour(index)}"{_dash(index)} d="{path}"><title>{escape(item.name)}</title></path>')
        if len(item.points) == 1:
            x, y = item.points[0]
            parts.append(f'<circle class="dot {_colour(index)}" cx="{frame.at_x(x):.1f}" cy="{frame.at_y(y):.1f}" r="3.5"/>')
        parts.extend(
            f'<circle class="dot {_colour(index)}" cx="{frame.at_x(x):.1f}" cy="{frame.at_y(y):.1f}" r="4"><title>{escape(text)}</title></circle>'
            for x, y, text in item.marks
        )
    parts.append(_legend(legend_rows, left))
    return _svg(parts, label, width, height)


def scatter(
    points: Sequence[tuple[str, float, float, bool]], *, label: str, x_label: str, y_label: str, width: int = 640, height: int = 330
) -> Markup | None:
    """Named points (name, x > 0, y fraction, solid or hollow) over a logarithmic x. None when there is nothing to draw."""
    points = [item for item in points if item[1] > 0]
    if not points:
        return None
    xs, ys = [item[1] for item in points], [item[2] for item in points]
    x_low, x_high = min(xs) / 1.5, max(xs) * 1.9
    spread = max(max(ys) - min(ys), 0.01)
    y_ticks = ticks(max(0.0, min(ys) - spread * 0.5), min(1.0, max(ys) + spread * 0.35))
    digits = 1 if len(y_ticks) > 1 and y_ticks[1] - y_ticks[0] < 0.01 else 0
    y_texts = [f"{value * 100:.{digits}f}\u202f%" for value in y_ticks]
    frame = Frame((x_low, x_high), (y_ticks[0], y_ticks[-1]), _left_of_axis(y_texts, y_label), width - 14, 14, height - 42, log_x=True)
    decades = [factor * 10.0**power for power in range(math.floor(math.log10(x_low)), math.ceil(math.log10(x_high)) + 1) for factor in (1, 2, 5)]
    x_ticks = [value for value in decades if x_low <= value <= x_high]
    parts = [_axes(frame, x_ticks, y_ticks, plain, lambda value: f"{value * 100:.{digits}f}\u202f%", x_label, y_label)]
    taken: list[tuple[float, float, float, float]] = []
    dots = [(frame.at_x(x) - 6, frame.at_y(y) - 6, frame.at_x(x) + 6, frame.at_y(y) + 6) for _, x, y, _ in points]
    for name, x, y, solid in points:
        cx, cy = frame.at_x(x), frame.at_y(y)
        text_x, text_y, anchor = _free_place(cx, cy, len(name) * CHAR_PX, frame, taken, dots)
        if abs(text_y - cy) > 20:  # too far off to be read as this point's name without a line
            below = text_y > cy
            parts.append(f'<line class="leader" x1="{cx:.1f}" y1="{cy:.1f}" x2="{text_x:.1f}" y2="{text_y - 10 if below else text_y + 3:.1f}"/>')
        kind = "dot c0" if solid else "ring"
        what = escape(f"{name}: {x:.2f} ms, {y * 100:.1f} %")
        parts.append(f'<circle class="{kind}" cx="{cx:.1f}" cy="{cy:.1f}" r="5"><title>{what}</title></circle>')
        parts.append(f'<text x="{text_x:.1f}" y="{text_y:.1f}" text-anchor="{anchor}">{escape(name)}</text>')
    return _svg(parts, label, width, height)


def bar_chart(
    rows: Sequence[tuple[str, float, str]], *, label: str, width: int = 560, colour: Callable[[int], int] = lambda _: 0, total: float | None = None
) -> Markup | None:
    """Horizontal bars (name, value >= 0, the value as text), one a row. `total` is the value of a full-width bar. None when there are no rows."""
    if not rows:
        return None
    names_px = min(max(len(name) for name, _, _ in rows) * CHAR_PX + 14, width * 0.42)
    values_px = max(len(text) for _, _, text in rows) * CHAR_PX + 12
    full, step = width - names_px - values_px, 26
    highest = total if total is not None else max(value for _, value, _ in rows)
    room = int(names_px / CHAR_PX)
    parts = []
    for index, (name, value, text) in enumerate(rows):
        y = index * step + 4
        length = max(0.0, value) / (highest or 1) * full
        short = name if len(name) <= room else name[: room - 1] + "…"
        parts.append(f'<text x="{names_px - 8:.1f}" y="{y + 13}" text-anchor="end">{escape(short)}<title>{escape(name)}</title></text>')
        parts.append(f'<rect class="track" x="{names_px:.1f}" y="{y}" width="{full:.1f}" height="18" rx="2"/>')
        parts.append(
            f'<rect class="bar {_colour(colour(index))}" x="{names_px:.1f}" y="{y}" width="{length:.1f}" height="18" rx="2">'
            f"<title>{escape(name)}: {escape(text)}</title></rect>"
        )
        parts.append(f'<text class="value" x="{names_px + length + 6:.1f}" y="{y + 13}">{escape(text)}</text>')
    return _svg(parts, label, width, len(rows) * step + 4)


def histogram(counts: Sequence[int], edges: Sequence[float], *, label: str, x_label: str, width: int = 460, height: int = 170) -> Markup | None:
    """Columns over `edges` (one more than `counts`). None when all counts are 0."""
    if not any(counts):
        return None
    y_ticks = [value for value in ticks(0, max(counts), wanted=3) if value == int(value)]
    left = _left_of_axis([plain(value) for value in y_ticks], "images")
    frame = Frame((edges[0], edges[-1]), (0, max(y_ticks[-1], max(counts))), left, width - 10, 10, height - 38)
    x_ticks = [value for value in ticks(edges[0], edges[-1], wanted=6) if edges[0] <= value <= edges[-1]]
    parts = [_axes(frame, x_ticks, y_ticks, plain, plain, x_label, "images")]
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        if count == 0:
            continue
        x, y = frame.at_x(low) + 0.5, frame.at_y(count)
        parts.append(
            f'<rect class="bar c0" x="{x:.1f}" y="{y:.1f}" width="{frame.at_x(high) - x - 0.5:.1f}" height="{frame.bottom - y:.1f}">'
            f"<title>{plain(low)} to {plain(high)}: {count}</title></rect>"
        )
    return _svg(parts, label, width, height)


def _colour(index: int) -> str:
    return f"c{index % PALETTE_SIZE}"


def _dash(index: int) -> str:
    dash = DASHES[index % len(DASHES)]
    return f' stroke-dasharray="{dash}"' if dash else ""


def _left_of_axis(y_texts: Sequence[str], y_label: str) -> float:
    """Room for the ticks' texts, and for the axis' label where it has one."""
    return max(len(item) for item in y_texts) * CHAR_PX + 12 + (16 if y_label else 0)


def _axes(
    frame: Frame,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_label: str,
    y_label: str,
) -> str:
    parts = []
    for value in y_ticks:
        y = frame.at_y(value)
        parts.append(f'<line class="grid" x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{frame.left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(y_text(value))}</text>')
    for value in x_ticks:
        if frame.x[0] - 1e-9 <= value <= frame.x[1] + 1e-9:
            x = frame.at_x(value)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.bottom:.1f}" y2="{frame.bottom + 4:.1f}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{frame.bottom + 17:.1f}" text-anchor="middle">{escape(x_text(value))}</text>')
    middle = (frame.left + frame.right) / 2
    parts.append(f'<text class="axis" x="{middle:.1f}" y="{frame.bottom + 34:.1f}" text-anchor="middle">{escape(x_label)}</text>')
    if y_label:
        centre = (frame.top + frame.bottom) / 2
        parts.append(f'<text class="axis" transform="translate(11 {centre:.1f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def _legend_rows(names: Sequence[str], width: float) -> list[list[tuple[float, int, str]]]:
    """Rows of (x offset, series index, name), broken at `width`; no legend for one series."""
    if len(names) < 2:
        return []
    rows: list[list[tuple[float, int, str]]] = [[]]
    x = 0.0
    for index, name in enumerate(names):
        need = 30 + len(name) * CHAR_PX + 14
        if rows[-1] and x + need > width:
            rows.append([])
            x = 0.0
        rows[-1].append((x, index, name))
        x += need
    return rows


def _legend(rows: list[list[tuple[float, int, str]]], left: float) -> str:
    parts = []
    for row_index, row in enumerate(rows):
        y = 10 + 18 * row_index
        for x, index, name in row:
            parts.append(f'<path class="line {_colour(index)}"{_dash(index)} d="M{left + x:.1f} {y}h24"/>')
            parts.append(f'<text x="{left + x + 30:.1f}" y="{y + 4}">{escape(name)}</text>')
    return "".join(parts)


def _free_place(
    cx: float,
    cy: float,
    text_px: float,
    frame: Frame,
    taken: list[tuple[float, float, float, float]],
    dots: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, str]:
    """The first place around a point where its name covers no other name and no point; right of it where there is none."""
    options = [
        (cx + 9, cy + 4, "start"),
        (cx - 9, cy + 4, "end"),
        (cx, cy - 10, "middle"),
        (cx, cy + 20, "middle"),
        *((cx + 9, cy + shift, "start") for shift in (-10, 18, -24, 32, -38, 46)),
        *((cx - 9, cy + shift, "end") for shift in (-10, 18, -24, 32, -38, 46)),
    ]
    chosen = options[0]
    for option in options:
        x, y, anchor = option
        left = {"start": x, "end": x - text_px, "middle": x - text_px / 2}[anchor]
        box = (left, y - 11, left + text_px, y + 3)
        inside = box[0] >= frame.left and box[2] <= frame.right + 10 and box[1] >= frame.top - 10 and box[3] <= frame.bottom
        if inside and not any(_overlap(box, other) for other in (*taken, *dots)):
            chosen = option
            break
    left = {"start": chosen[0], "end": chosen[0] - text_px, "middle": chosen[0] - text_px / 2}[chosen[2]]
    taken.append((left, chosen[1] - 11, left + text_px, chosen[1] + 3))
    return chosen


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _svg(parts: Sequence[str], label: str, width: float, height: float) -> Markup:
    # escape() ran on every text above; what remains is numbers and our own markup
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}" style="max-width:{width:.0f}px">'
        f"{''.join(parts)}</svg>"
    )
