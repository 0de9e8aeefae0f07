"""Drawing in SVG whose colours the page decides: text stays text, shapes carry class names, all is escaped."""

import itertools
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

MARKS = ("circle", "square", "diamond", "triangle", "cross", "star")
"""Shapes that stay apart without colour."""


class Drawing:
    """One figure of `width` x `height` user units, read out as `title` and `description`."""

    def __init__(self, width: float, height: float, name: str, title: str, description: str) -> None:
        self.width, self.height, self.name = width, height, name
        self.title, self.description = title, description
        self._parts: list[Markup] = []

    def draw_line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        if len(points) == 2:
            (x1, y1), (x2, y2) = points
            self._add(
                '<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>',
                kind,
                _format_number(x1),
                _format_number(y1),
                _format_number(x2),
                _format_number(y2),
            )
        elif points:
            self._add(
                '<polyline class="{}" points="{}"/>',
                kind,
                " ".join(f"{_format_number(x)},{_format_number(y)}" for x, y in points),
            )

    def draw_box(
        self, x: float, y: float, width: float, height: float, kind: str, tip: str = "", strength: float | None = None
    ) -> None:
        """A rectangle; `strength` in [0, 1] is how much of its class's colour it has."""
        faded = Markup("") if strength is None else Markup(' fill-opacity="{}"').format(f"{strength:.2f}")
        place = (_format_number(x), _format_number(y), _format_number(max(width, 0)), _format_number(max(height, 0)))
        body = '<rect class="{}" x="{}" y="{}" width="{}" height="{}"{}'
        self._add(body + (">{}</rect>" if tip else "/>{}"), kind, *place, faded, _format_tooltip(tip))

    def draw_mark(self, shape: str, x: float, y: float, size: float, kind: str, tip: str = "") -> None:
        """One of `MARKS` centred at x, y, `size` from its middle to its edge."""
        if shape == "circle":
            place: tuple[str, ...]
            body, place = (
                '<circle class="{}" cx="{}" cy="{}" r="{}"',
                (_format_number(x), _format_number(y), _format_number(size)),
            )
        else:
            body, place = '<path class="{}" d="{}"', (_trace_outline(shape, x, y, size),)
        self._add(
            body + (">{}</" + body[1:].split(" ")[0] + ">" if tip else "/>{}"), kind, *place, _format_tooltip(tip)
        )

    def draw_text(
        self, x: float, y: float, text: str, kind: str = "", anchor: str = "start", rotation: float = 0.0
    ) -> None:
        turned = (
            Markup(' transform="rotate({} {} {})"').format(
                _format_number(rotation), _format_number(x), _format_number(y)
            )
            if rotation
            else Markup("")
        )
        place = (_format_number(x), _format_number(y), anchor, turned)
        self._add('<text class="{}" x="{}" y="{}" text-anchor="{}"{}>{}</text>', kind, *place, text)

    def _add(self, template: str, *values: object) -> None:
        self._parts.append(Markup(template).format(*values))

    def __html__(self) -> str:
        head = Markup(
            '<svg role="img" viewBox="0 0 {w} {h}" style="max-width:{w}px" aria-labelledby="{n}-t {n}-d">'
            '<title id="{n}-t">{t}</title><desc id="{n}-d">{d}</desc>'
        ).format(
            w=_format_number(self.width), h=_format_number(self.height), n=self.name, t=self.title, d=self.description
        )
        return str(head + Markup("\n").join(self._parts) + Markup("</svg>"))


class Scale:
    """A linear map from [low, high] to [start, end]; `whole` where only whole numbers have a meaning."""

    def __init__(self, low: float, high: float, start: float, end: float, *, integer: bool = False) -> None:
        if high - low < 1e-12:
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        self.low, self.high, self.start, self.end, self.integer = low, high, start, end, integer

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def compute_ticks(self, count: int = 5) -> list[float]:
        """Round numbers inside the range, some `about` of them."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((power * times for times in (1, 2, 5) if power * times >= rough), power * 10)
        step = max(step, 1.0) if self.integer else step
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def draw_axes(
    drawing: Drawing,
    x: Scale,
    y: Scale,
    names: tuple[str, str],
    formatters: tuple[Callable[[float], str], Callable[[float], str]],
) -> None:
    """Grid lines, ticks and the names of both axes."""
    left, right, bottom = x.start, x.end, max(y.start, y.end)
    for value in y.compute_ticks():
        drawing.draw_line([(left, y(value)), (right, y(value))], "grid")
        drawing.draw_text(left - 6, y(value) + 4, formatters[1](value), "tick", "end")
    for value in x.compute_ticks(6):
        drawing.draw_line([(x(value), bottom), (x(value), bottom + 4)], "axis")
        drawing.draw_text(x(value), bottom + 17, formatters[0](value), "tick", "middle")
    drawing.draw_line([(left, bottom), (right, bottom)], "axis")
    drawing.draw_text((left + right) / 2, bottom + 36, names[0], "axis-name", "middle")
    drawing.draw_text(left - 44, min(y.start, y.end) - 12, names[1], "axis-name")


def make_percent_formatter(values: Sequence[float]) -> Callable[[float], str]:
    """How to write ticks that are shares: as many digits as tell neighbours apart."""
    step = min((b - a for a, b in itertools.pairwise(values)), default=1.0)
    digits = 0 if step >= 0.00999 else 1 if step >= 0.000999 else 2
    return lambda value: f"{value * 100:.{digits}f} %"


def make_number_formatter(values: Sequence[float]) -> Callable[[float], str]:
    """How to write ticks that are numbers: as many decimals as tell neighbours apart, and no more than six."""
    step = min((b - a for a, b in itertools.pairwise(values)), default=1.0)
    decimals = min(6, max(0, -math.floor(math.log10(step) + 1e-9)))
    return lambda value: f"{value:.{decimals}f}"


def _format_tooltip(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text) if text else Markup("")


def _format_number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _trace_outline(shape: str, x: float, y: float, size: float) -> str:
    if shape == "cross":
        arm = size * 0.9
        falling = (
            f"M{_format_number(x - arm)} {_format_number(y - arm)}L{_format_number(x + arm)} {_format_number(y + arm)}"
        )
        left, right, low, high = (_format_number(v) for v in (x - arm, x + arm, y - arm, y + arm))
        rising = f"M{left} {high}L{right} {low}"
        return falling + rising
    angles = {"square": (45, 135, 225, 315), "diamond": (0, 90, 180, 270), "triangle": (90, 210, 330)}
    if shape == "star":
        turns = [(90 + 36 * point, size * (1.35 if point % 2 == 0 else 0.55)) for point in range(10)]
    else:
        turns = [(angle, size * 1.25) for angle in angles[shape]]
    corners = [
        f"{_format_number(x + far * math.cos(math.radians(angle)))} "
        f"{_format_number(y - far * math.sin(math.radians(angle)))}"
        for angle, far in turns
    ]
    return f"M{'L'.join(corners)}Z"
