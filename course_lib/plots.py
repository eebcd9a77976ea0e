"""Every figure of the book: plain data in, one inline SVG out. No torch here.

Each public function draws one figure and returns it as a `Figure`, its caption completed by a note
(n, what the marks mean). Where the unit is "%" or "points", the values given are fractions, drawn
times 100. The only statistics computed here make raw values readable: a mean and its 95 %
t-interval (`arms`), a median (`curves`), a standard deviation (`histogram`). Intervals that decide
a verdict are passed in.
"""

import hashlib
import html
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "#010203"  # a sentinel: replaced by currentColor, so that text and axes follow the page
FEW_POINTS = 8  # a line of at most so many points shows them
WIDTH = 5.6  # inches, 538 px: on a 360 px phone, 10.5 pt text still measures 9.4 px
# Okabe and Ito's hues (2008), with a luminance that reads on white and on #14181e (3:1 or better)
# and no pair closer than 0.07 in OKLab under simulated colour deficiency (Machado et al. 2009).
PALETTE = (
    "#0975C0", "#C8290B", "#C38605", "#247446", "#BA63FC", "#1D9EBE", "#A3438D", "#8A887C",
)  # fmt: skip
MARKERS = "os^Dvp><"
DASHES = (
    "-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1)), (0, (9, 2)), (0, (1.2, 1.2, 1.2, 1.2, 5, 1.5)), (0, (1.2, 2.4)),
)  # fmt: skip
# Arms that return from page to page keep their colour, given as its place in PALETTE.
NAMED_ARMS = {
    "inputs × 255": 0, "as posted": 1, "quick": 2, "standardised": 3,
    "inputs × 256": 5, "full size": 6, "thread": 7,
}  # fmt: skip
_REFERENCE = {"color": INK, "lw": 1, "ls": (0, (4, 2)), "zorder": 1}
_STYLE = {
    "font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 11, "axes.labelsize": 11,
    "xtick.labelsize": 10.5, "ytick.labelsize": 10.5, "axes.titlelocation": "left",
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.8, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": INK,
    "grid.alpha": 0.15, "grid.linewidth": 0.6, "figure.facecolor": "none", "figure.dpi": 100,
    "axes.facecolor": "none", "text.parse_math": False, "svg.fonttype": "none",
    "svg.hashsalt": "figure", "image.composite_image": False, "path.simplify_threshold": 0.3,
}  # fmt: skip
_styled = matplotlib.rc_context(_STYLE)  # a decorator: nothing is set globally at import


@dataclass(frozen=True)
class Figure:
    """A drawing with its alternative text and its caption; shows itself as one inline SVG.

    Raises ValueError when `alt` has fewer than 40 characters or `caption` is empty.
    """

    fig: Drawing
    alt: str
    caption: str

    def __post_init__(self) -> None:
        if len(self.alt.strip()) < 40:
            raise ValueError(f"alt is {self.alt!r}: say in 40 characters or more what is seen")
        if not self.caption.strip():
            raise ValueError("caption is empty: say in a sentence what the figure shows")
        _spread_end_labels(self.fig)

    @_styled
    def svg(self) -> str:
        """The drawing as an SVG element: the same bytes for the same data."""
        buffer, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
        self.fig.savefig(buffer, format="svg", metadata=nothing)
        return _inline(buffer.getvalue(), self.alt, self.caption)

    def _repr_html_(self) -> str:
        # The theme paints the outputs of a dark page light: paint the page's own colour over it.
        return (
            '<figure class="chart" style="margin:0;'
            f'background-color:var(--pst-color-background, transparent)">{self.svg()}'
            '<figcaption style="text-align:left;max-width:38em;margin:.3rem 0 0">'
            f"{html.escape(self.caption)}</figcaption></figure>"
        )


@_styled
def arms(
    values_by_arm: Mapping, *, metric: str, unit: str = "", references: Mapping | None = None,
    study_arms: Sequence[str] | None = None, alt: str, caption: str,
) -> Figure:  # fmt: skip
    """Dots, one a seed, in a row per arm, with the mean and its 95 % t-interval.

    `values_by_arm` maps an arm to its values (S,), or to groups such as {"train": (S,), "test":
    (S,)}, of which all but the last are hollow; NaN, inf and None are counted, not drawn.
    `references` maps a label to a value. `study_arms`: all arms of the study, so that an arm keeps
    its colour where only some are drawn. Raises ValueError for no arm, or one not in `study_arms`.
    """
    styles, scale = _arm_styles(values_by_arm, study_arms), _factor(unit)
    rows = [
        (arm, group, group == list(groups)[-1], scale * np.asarray(values, dtype=float))
        for arm, given in values_by_arm.items()
        for groups in [given if isinstance(given, Mapping) else {"": given}]
        for group, values in groups.items()
    ]
    references = {label: scale * value for label, value in (references or {}).items()}
    axes = _axes(0.55 * len(rows) + 0.22 * len(references) + 0.65)
    for row, (arm, group, filled, values) in enumerate(rows):
        name = f"{arm}, {group}" if group else arm
        _strip(axes, -row, name, values, styles[arm], filled=filled)
    axes.set(xlabel=_with_unit(metric, unit), yticks=[], ylim=(0.45 - len(rows), 0.72))
    axes.spines["left"].set_visible(False)
    _vertical_lines(axes, references, rows=range(0, -len(rows), -1))
    lost = sum(int((~np.isfinite(values)).sum()) for *_, values in rows)
    note = f"{_n(len(v) for *_, v in rows)}; dots are seeds; bar: mean and 95 % interval"
    return _finish(axes, alt, caption, note + f"; {lost} not finite, left out" * (lost > 0))


@_styled
def curves(
    series_by_arm: Mapping, *, y_label: str, y_unit: str = "", x_label: str = "",
    log_x: bool = False, log_y: bool = False, references: Mapping | None = None,
    events: Mapping | None = None, bands: Mapping | None = None,
    study_arms: Sequence[str] | None = None, alt: str = "", caption: str = "",
    ax: Axes | None = None,
) -> Figure | str:  # fmt: skip
    """Lines, one per arm, labelled where they end; several seeds as thin lines and their median.

    `series_by_arm` maps an arm to (x, y): x (T,), and y (T,) or one row per seed (S, T). A run
    ends with a cross at its first NaN, inf or None, or where its row is shorter than x; the median
    is of the runs that go on, while these are at least half. `bands` maps an arm to (low, high),
    (T,) each; `references` a label to a y; `events` a label to an x. A log x axis that holds 0 is
    linear up to its first positive value. Given an `ax`, it draws there and returns the note for
    the caption alone.
    Raises ValueError for shapes that do not fit, and for values that a log axis cannot show.
    """
    styles, scale = _arm_styles(series_by_arm, study_arms), _factor(y_unit)
    label_lines = sum(len(textwrap.wrap(arm, 20)) for arm in series_by_arm)
    axes = ax or _axes(max(3.0, 0.22 * label_lines + 0.9))
    drawn = {
        arm: (np.asarray(x, dtype=float), scale * _runs(arm, x, y))
        for arm, (x, y) in series_by_arm.items()
    }
    _log_axes(axes, drawn.values(), log_x=log_x, log_y=log_y)
    for arm, band in (bands or {}).items():
        low, high = scale * np.asarray(band)
        axes.fill_between(drawn[arm][0], low, high, color=styles[arm]["color"], alpha=0.2, lw=0)
    for arm, (x, runs) in drawn.items():
        _line(axes, arm, x, runs, **styles[arm])
    axes.set(xlabel=x_label, title=_with_unit(y_label, y_unit))
    if not log_x and all((x == x.round()).all() for x, _ in drawn.values()):
        axes.locator_params(axis="x", integer=True)  # there is no epoch 2.5
    medians = [_median(runs) for _, runs in drawn.values()]
    _horizontal_lines(axes, {k: scale * v for k, v in (references or {}).items()}, medians)
    _vertical_lines(axes, events or {})
    several = [len(y) for _, y in series_by_arm.values() if np.ndim(y[0])]
    notes = [_n(several), "thin lines are seeds, thick lines their median"] if several else []
    if any(np.isnan(runs).any() for _, runs in drawn.values()):
        notes.append("×: the last point of a line before a run diverged")
    return "; ".join(notes) if ax else _finish(axes, alt, caption, "; ".join(notes))


@_styled
def panels(
    parts: Sequence[Callable], *, x_label: str, alt: str, caption: str, height: float = 1.55
) -> Figure:
    """Several plots below each other with one x axis, `height` inches each.

    A part is called with `ax=` and returns its note: `functools.partial(curves, series, ...)`.
    Raises ValueError when `parts` is empty.
    """
    if not parts:
        raise ValueError("parts is empty: pass at least one function(ax=...) that draws")
    fig = Drawing(figsize=(WIDTH, height * len(parts) + 0.3))
    axes = fig.subplots(len(parts), sharex=True, squeeze=False)[:, 0]
    notes = [part(ax=ax) for part, ax in zip(parts, axes, strict=True)]
    axes[-1].set_xlabel(x_label)
    said_once = dict.fromkeys("; ".join(filter(None, notes)).split("; "))
    return _finish(axes[-1], alt, caption, "; ".join(said_once))


@_styled
def resolution(
    num_seeds: Sequence[int], half95: Sequence[float], half99: Sequence[float], *,
    marks: Sequence[int], alt: str, caption: str,
) -> Figure:  # fmt: skip
    """The difference between two arms, in points, that n seeds each can resolve, against n.

    `half95` and `half99` (N,) are half widths of the interval of the difference with `num_seeds`
    (N,) seeds in each arm; the values at the n in `marks` are printed.
    """
    axes, x = _axes(3.0), np.asarray(num_seeds)
    series = {"95 % interval": (x, half95), "99 % interval": (x, half99)}
    curves(series, y_label="smallest difference resolved", y_unit="points",
           x_label="n, seeds in each arm", log_x=True, ax=axes)  # fmt: skip
    styles = _arm_styles(series).values()
    for half, style, shift in zip((half95, half99), styles, ((-3, -16), (3, 6)), strict=True):
        for at in [(n, 100.0 * np.interp(n, x, half)) for n in marks]:
            axes.plot(*at, **style, ms=6)
            axes.annotate(f"{at[1]:.2g}", at, shift, textcoords="offset points")
    axes.set(xticks=marks, ylim=(0, 1.12 * axes.get_ylim()[1]))
    return _finish(axes, alt, caption, "Lines: half width of the interval of the difference")


@_styled
def histogram(
    values: Sequence[float], *, metric: str, unit: str = "", alt: str, caption: str
) -> Figure:
    """How the values (N,) of many seeds spread: mean, standard deviation, lowest, highest.

    Raises ValueError when fewer than two values are given or one is not finite.
    """
    values = _factor(unit) * np.asarray(values, dtype=float)
    finite = int(np.isfinite(values).sum())
    if not 2 <= finite == len(values):
        raise ValueError(
            f"values has {len(values)} numbers, {finite} of them finite: give two or more, and "
            "leave out runs that diverged"
        )
    axes, mean, sd = _axes(2.7), values.mean(), values.std(ddof=1)
    top = axes.hist(values, bins=20, color=PALETTE[0], rwidth=0.88)[0].max()
    axes.plot([mean - sd, mean + sd], [1.13 * top] * 2, "|-", color=INK, lw=1.5, ms=8, mew=1.5)
    axes.plot([mean, mean], [0, 1.13 * top], color=INK, lw=1.2)
    digits = _digits(sd / 2)
    words = f"mean {_text(mean, digits)}, standard deviation {_text(sd, digits)}"
    axes.annotate(words, (mean, 1.2 * top), ha="center")
    for name, x in (("lowest", values.min()), ("highest", values.max())):
        axes.annotate(f"{name} {_text(x, digits)}", (x, 0), (0, 34), textcoords="offset points",
                      ha="center", arrowprops=_leader(INK, (0.5, 0)))  # fmt: skip
    axes.margins(x=0.15)
    axes.set(xlabel=_with_unit(metric, unit), title="number of seeds", ylim=(0, 1.4 * top))
    axes.grid(visible=False, axis="x")
    return _finish(axes, alt, caption, f"n = {len(values)}; bar: mean ± 1 standard deviation")


@_styled
def verdict_bars(
    rows: Mapping, *, holds: tuple[float | None, float | None], holds_label: str, metric: str,
    unit: str = "", zero: bool = True, alt: str, caption: str,
) -> Figure:  # fmt: skip
    """Effects with their 95 % (thick) and 99 % (thin) intervals against what the claim needs.

    `rows` maps a label to (effect, low95, high95, low99, high99). The claim holds in the shaded
    range `holds` = (low, high), None for an open end, labelled `holds_label`; `zero`: these are
    differences, so show signs and the line of no difference.
    Raises ValueError without a row, when one is not five finite numbers, or when `holds` is open at
    both ends.
    """
    scale, axes = _factor(unit), _axes(0.5 * len(rows) + 0.75)
    edges = [scale * edge for edge in holds if edge is not None]
    if not rows or not edges:
        raise ValueError(
            f"rows has {len(rows)} entries, holds is {holds}: pass one row or more, one edge or two"
        )
    for row, (label, numbers) in enumerate(rows.items()):
        _interval(axes, -row, label, numbers, scale, sign="+" if zero else "")
    heights = -np.arange(len(rows))
    for x, style in [*((edge, _REFERENCE["ls"]) for edge in edges), *([(0, "-")] if zero else [])]:
        line = _REFERENCE | {"ls": style}  # beside the bars only, so that no word is struck out
        axes.vlines([x] * len(rows), heights - 0.25, heights + 0.25, **line)
    axes.margins(x=0.12)
    limits = axes.get_xlim()
    low, high = (e if h is None else scale * h for h, e in zip(holds, limits, strict=True))
    axes.barh(heights, high - low, 0.4, low, color=PALETTE[3], alpha=0.35, lw=0)
    side = "right" if holds[1] is None else "left" if holds[0] is None else "center"
    axes.set_title(holds_label, loc=side)
    axes.set(xlabel=_with_unit(metric, unit), yticks=[], xlim=limits, ylim=(0.6 - len(rows), 0.85))
    axes.spines["left"].set_visible(False)
    return _finish(axes, alt, caption, "Dot: effect; thick bar: 95 %, thin: 99 % interval")


@_styled
def matrix(
    shares: Mapping[str, Mapping[str, Mapping[str, float]]], *, alt: str, caption: str
) -> Figure:
    """A dot for each share: full for 1, hollow for 0, tinted between; no dot where there is none.

    `shares` maps groups to rows to columns, such as halves to faults to nets. Rows that are hollow
    throughout are left out and counted. Raises ValueError without a row.
    """
    hollow = sum(not any(row.values()) for rows in shares.values() for row in rows.values())
    columns = list(
        dict.fromkeys(c for rows in shares.values() for row in rows.values() for c in row)
    )
    lines = []
    for group, rows in shares.items():
        lines += [(group, None), *(item for item in rows.items() if any(item[1].values()))]
    if not columns:
        raise ValueError(f"shares is {shares!r}; give at least one row with one column")
    axes = _axes(0.22 * len(lines) + 0.6)
    for place, (name, row) in enumerate(lines):
        weight = "normal" if row is not None else "bold"
        axes.text(-0.6, -place, name, ha="right", va="center", fontsize=10.5, weight=weight)
        for column, share in (row or {}).items():
            x, colour = columns.index(column), PALETTE[0]
            axes.plot(x, -place, "o", ms=10, mfc="none", mec=colour, mew=1.2)
            axes.plot(x, -place, "o", ms=10, mfc=colour, mec="none", alpha=float(share))
    axes.set(
        xlim=(-0.5, len(columns) - 0.5), ylim=(0.6 - len(lines), 0.6), yticks=[],
        xticks=range(len(columns)), xticklabels=columns,
    )  # fmt: skip
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    dots = "Full dot: all; tinted: a part; hollow: nothing; no dot: not asked, or nothing to repair"
    more = f"{hollow} more row is" if hollow == 1 else f"{hollow} more rows are"
    rest = f"; {more} hollow throughout" if hollow else ""
    return _finish(axes, alt, caption, dots + rest)


@_styled
def image_grid(
    images: np.ndarray, titles: Sequence[str], *, columns: int, alt: str, caption: str
) -> Figure:
    """Images (N, H, W, 3) uint8 in rows of `columns`, each with its title, of N, above it.

    Raises ValueError for another shape or type, or when titles and images differ in number.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"images is {images.dtype} {images.shape}: pass uint8 (N, H, W, 3), N ≥ 1")
    if len(titles) != len(images):
        raise ValueError(f"titles has {len(titles)} entries for {len(images)} images: one each")
    columns, (height, width) = min(columns, len(images)), images.shape[1:3]
    per_inch = columns * (width + 2) / (WIDTH - 0.2)  # pixels of one mosaic: a single PNG
    gap = math.ceil(0.26 * per_inch)
    mosaic = np.zeros((-(-len(images) // columns) * (height + gap), columns * (width + 2), 4), "u1")
    axes = _axes(len(mosaic) / per_inch + 0.1)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        top, left = i // columns * (height + gap) + gap, i % columns * (width + 2) + 1
        tile = mosaic[top : top + height, left : left + width]
        tile[..., :3], tile[..., 3] = image, 255
        axes.text(left + width / 2, top - 0.06 * per_inch, title, ha="center", size=10.5)
    axes.imshow(mosaic, interpolation="none")
    axes.set_axis_off()
    return _finish(axes, alt, caption, f"{len(images)} images of {height} × {width} pixels")


def seen(values: np.ndarray, **options) -> np.ndarray:
    """The pixels that matplotlib's `imshow` paints for `values`, one each, on a white page.

    `values` (H, W) pass through a colour map, (H, W, 3) are colours; the pixels are uint8
    (H, W, 3). `options` are those of `imshow`: vmin, vmax, norm, cmap.
    """
    height, width = np.shape(values)[:2]
    fig = Drawing(figsize=(width, height), dpi=1, facecolor="white")
    canvas, axes = FigureCanvasAgg(fig), fig.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(values, interpolation="none", aspect="auto", **options)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def lightness(colours: np.ndarray) -> np.ndarray:
    """CIELAB lightness L*, 0 for black to 100 for white, of sRGB colours (..., 3) in [0, 1].

    sRGB to luminance by IEC 61966-2-1, luminance to L* by CIE 1976 (e-ILV 17-23-076). Raises
    ValueError for values outside [0, 1].
    """
    colours = np.asarray(colours, dtype=float)
    if not ((colours >= 0) & (colours <= 1)).all():
        raise ValueError(f"colours go from {colours.min()} to {colours.max()}; use [0, 1]")
    curved = ((colours + 0.055) / 1.055) ** 2.4
    luminance = np.where(colours <= 0.04045, colours / 12.92, curved) @ (0.2126, 0.7152, 0.0722)
    straight = 841 / 108 * luminance + 4 / 29
    return 116 * np.where(luminance > (6 / 29) ** 3, np.cbrt(luminance), straight) - 16


def colour_map(name: str) -> np.ndarray:
    """The 256 colours of matplotlib's map `name`, lowest value first: sRGB (256, 3) in [0, 1]."""
    return matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3]


def _axes(height: float) -> Axes:
    """The axes of a new figure `height` inches tall."""
    return Drawing(figsize=(WIDTH, height)).add_subplot()


def _finish(axes: Axes, alt: str, caption: str, note: str) -> Figure:
    """The figure, its caption completed by `note`."""
    said = caption.strip()
    stop = "" if not said or said[-1] in ".?!" else "."
    whole = f"{said}{stop}" + f" {note}." * bool(said and note)
    return Figure(axes.figure, alt, re.sub(r" (?=%)|(?<=\bn) (?==)|(?<=\bn =) ", "\u00a0", whole))


def _arm_styles(drawn: Iterable[str], study_arms: Sequence[str] | None = None) -> dict[str, dict]:
    """Colour, marker and dash by arm, as keyword arguments; they go together.

    Arms in `NAMED_ARMS` keep their colour on every page; the others take, in order, the colours
    that no named arm of this study has. When these run out, they return with another marker.
    """
    every = list(drawn if study_arms is None else study_arms)
    if not every or not set(drawn) <= set(every):
        raise ValueError(f"arms are {[*drawn]}, study_arms {every}: draw some of the study's")
    free = [i for i in range(len(PALETTE)) if i not in {NAMED_ARMS.get(arm) for arm in every}]
    others = [arm for arm in every if arm not in NAMED_ARMS]
    places = {arm: (free[k % len(free)], k // len(free)) for k, arm in enumerate(others)}
    styles = {}
    for arm in every:
        i, turn = places.get(arm) or (NAMED_ARMS[arm], 0)
        j = (i + turn) % len(MARKERS)
        styles[arm] = {"color": PALETTE[i], "marker": MARKERS[j], "ls": DASHES[j]}
    return styles


def _factor(unit: str) -> float:
    return 100.0 if unit in ("%", "points") else 1.0


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _digits(half_width: float) -> int:
    """Decimals that show a number known to within `half_width`, and no more."""
    return min(6, max(0, math.ceil(0.3 - math.log10(half_width)))) if half_width > 0 else 2


def _text(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def _n(counts: Iterable[int]) -> str:
    counts = sorted(counts)
    return f"n = {counts[0]}" + f" to {counts[-1]}" * (counts[0] < counts[-1])


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Mean of values (S,), S ≥ 2, and the half width of its 95 % t-interval."""
    from scipy.special import stdtrit

    error = values.std(ddof=1) / math.sqrt(len(values))
    return values.mean(), stdtrit(len(values) - 1, 0.975) * error


def _row_labels(axes: Axes, y: float, left: str, right: str) -> None:
    for x, side, text in ((0, "left", left), (1, "right", right)):
        axes.text(x, y + 0.3, text, ha=side, transform=axes.get_yaxis_transform())


def _strip(axes: Axes, y: float, name: str, values: np.ndarray, style: dict, *, filled: bool):
    """One row of `arms`: dots spread by the golden ratio, the interval below, words above."""
    values = values[np.isfinite(values)]
    spread = 0.22 * ((np.arange(len(values)) * 0.618034) % 1) - 0.11
    face = style["color"] + "99" if filled else "none"
    axes.plot(values, y + spread, style["marker"], ms=5.5, mew=1.1, mec=style["color"], mfc=face)
    words = f"{values[0]:.4g}" if len(values) else "no finite value"
    if len(values) > 1:
        mean, half = _mean_interval(values)
        axes.plot([mean - half, mean + half], [y - 0.25] * 2, color=INK, lw=2.2)
        axes.plot(mean, y - 0.25, "|", color=INK, ms=9, mew=1.5)
        most = 3 - math.floor(math.log10(abs(mean))) if mean else 2  # four digits are enough
        digits = min(_digits(half), max(0, most))
        words, low, high = (_text(v, digits) for v in (mean, mean - half, mean + half))
        words = f"{words} ({low} to {high})"
    _row_labels(axes, y, name, words)


def _interval(axes: Axes, y: float, label: str, numbers: Sequence, scale: float, *, sign: str):
    """One row of `verdict_bars`."""
    numbers = scale * np.asarray(numbers, dtype=float)
    if numbers.shape != (5,) or not np.isfinite(numbers).all():
        raise ValueError(f"rows[{label!r}] is {numbers}: pass effect, low95, high95, low99, high99")
    effect, low95, high95, low99, high99 = numbers
    axes.plot([low99, high99], [y, y], color=PALETTE[0], lw=1.5)
    axes.plot([low95, high95], [y, y], color=PALETTE[0], lw=5, solid_capstyle="butt")
    axes.plot(effect, y, "o", color=INK, ms=7)
    words = [_text(v, _digits((high99 - low99) / 2), sign) for v in (effect, low99, high99)]
    _row_labels(axes, y, label, f"{words[0]} (99 %: {words[1]} to {words[2]})")


def _runs(arm: str, x: Sequence[float], y: Sequence) -> np.ndarray:
    """`y` as (S, T) floats; from its first value that is not finite on, a run is NaN."""
    rows = y if len(y) and np.ndim(y[0]) else [y]
    runs = np.full((len(rows), len(x)), np.nan)
    for run, row in zip(runs, rows, strict=True):
        if not 0 < len(row) <= len(x):
            raise ValueError(f"{arm!r} has {len(row)} values for {len(x)} x: pass one x a value")
        run[: len(row)] = np.asarray(row, dtype=float)
    return np.where(np.logical_and.accumulate(np.isfinite(runs), axis=1), runs, np.nan)


def _median(runs: np.ndarray) -> np.ndarray:
    """Median of the runs that go on, as long as these are at least half: (at most T,)."""
    going = np.isfinite(runs).mean(axis=0) >= 0.5
    return np.nanmedian(runs[:, going], axis=0)


def _line(axes: Axes, arm: str, x: np.ndarray, runs: np.ndarray, *, color, marker, ls) -> None:
    """One arm of `curves`: thin runs, their median, a cross where a run ends, the end label."""
    median = _median(runs)
    if len(runs) > 1:
        axes.plot(x, runs.T, color=color, lw=0.7, alpha=0.5)
    dots = marker if len(x) <= FEW_POINTS else ""  # so that a line shows what was measured
    axes.plot(x[: len(median)], median, color=color, ls=ls, lw=2, marker=dots, ms=5)
    for run, k in zip(runs, np.isfinite(runs).sum(axis=1), strict=True):
        if 0 < k < len(x):
            axes.plot(x[k - 1], run[k - 1], "x", color=color, ms=7, mew=1.8, zorder=4)
    if len(median):
        axes.annotate("\n".join(textwrap.wrap(arm, 20)), (x[len(median) - 1], median[-1]),
                      (1.05, 0.5), textcoords="axes fraction", va="center", gid="end",
                      annotation_clip=False, arrowprops=_leader(color, (0, 0.5)))  # fmt: skip


def _leader(color: str, start: tuple[float, float]) -> dict:
    """Arrow properties of a thin line from a point of the label to what it names."""
    return {"arrowstyle": "-", "color": color, "lw": 1, "shrinkA": 1, "shrinkB": 0, "relpos": start}


def _log_axes(axes: Axes, drawn: Iterable[tuple], *, log_x: bool, log_y: bool) -> None:
    """Logarithmic axes where asked for, plain numbers at their ticks."""
    xs, ys = (np.concatenate([np.ravel(pair[k]) for pair in drawn]) for k in (0, 1))
    ys = ys[np.isfinite(ys)]
    remedy = "pass False, or drop the values"
    if log_x and (xs < 0).any():
        raise ValueError(f"x goes down to {xs.min():g}, log_x needs x ≥ 0: {remedy}")
    if log_y and (ys <= 0).any():
        raise ValueError(f"y goes down to {ys.min():g}, log_y needs y > 0: {remedy}")
    if log_x and (xs == 0).any():
        axes.set_xscale("symlog", linthresh=xs[xs > 0].min(initial=1), linscale=0.4)
    elif log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
        decades = np.log10(ys.max() / ys.min()) if len(ys) else 0
        subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.FuncFormatter(_tick))
        axis.set_minor_locator(ticker.NullLocator())


def _tick(value: float, _position: int) -> str:
    """1,000 or 0.05 or 10⁻⁵."""
    if value == 0 or 1e-4 < abs(value) < 1e6 or not math.log10(abs(value)).is_integer():
        return f"{value:,.6g}".replace("-", "−")
    superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    sign = "−" if value < 0 else ""
    return sign + "10" + str(round(math.log10(abs(value)))).translate(superscript)


def _horizontal_lines(axes: Axes, lines: Mapping, curves: Sequence[np.ndarray]) -> None:
    """Dashed lines, labelled on the side where the curves are further away."""

    def pixel(y: float) -> float:
        return axes.transData.transform((1, y))[1]

    for label, y in lines.items():
        axes.axhline(y, **_REFERENCE)
        room = [min((abs(pixel(c[end]) - pixel(y)) for c in curves if len(c)), default=0)
                for end in (0, -1)]  # fmt: skip
        side, x = ("left", 0.01) if room[0] > room[1] else ("right", 0.99)
        high = axes.transAxes.inverted().transform((0, pixel(y)))[1] > 0.85
        shift, va = (-4, "top") if high else (3, "bottom")
        axes.annotate(label, (x, y), (0, shift), xycoords=axes.get_yaxis_transform(),
                      textcoords="offset points", ha=side, va=va)  # fmt: skip


def _vertical_lines(axes: Axes, lines: Mapping, *, rows: Sequence[float] = ()) -> None:
    """Dashed lines, labelled below each other in head room made for the labels; behind `rows` of
    dots they leave out the words above each row."""
    for x in lines.values():
        if rows:
            axes.vlines(
                [x] * len(rows), [y - 0.4 for y in rows], [y + 0.2 for y in rows], **_REFERENCE
            )
        else:
            axes.axvline(x, **_REFERENCE)
    scale, points = axes.yaxis.get_transform(), axes.get_window_extent().height * 0.72
    low, high = scale.transform(np.array(axes.get_ylim()))
    top = high + 16 * len(lines) / points * (high - low)
    axes.set_ylim(top=scale.inverted().transform(np.array([top]))[0])
    for k, (label, x) in enumerate(lines.items()):
        at = axes.transAxes.inverted().transform(axes.transData.transform((x, 1)))[0]
        side, shift = ("right", -4) if at > 0.5 else ("left", 4)
        axes.annotate(label, (x, 1), (shift, -1 - 15 * k), xycoords=axes.get_xaxis_transform(),
                      textcoords="offset points", ha=side, va="top")  # fmt: skip


@_styled
def _spread_end_labels(fig: Drawing) -> None:
    """Lay the figure out, once, and move the labels of `curves` just so far that none overlap."""
    ConstrainedLayoutEngine().execute(fig)  # at each draw, the layout would move a little
    for axes in fig.axes:
        box, pixels = axes.get_window_extent(), axes.transData.transform
        labels = [text for text in axes.texts if text.get_gid() == "end"]
        labels.sort(key=lambda text: pixels(text.xy)[1])
        heights = np.array([14 * t.get_text().count("\n") + 15 for t in labels]) * fig.dpi / 72
        below = np.cumsum(heights) - heights / 2
        wanted = np.array([pixels(text.xy)[1] for text in labels]) - below
        up, down = np.maximum.accumulate(wanted), np.minimum.accumulate(wanted[::-1])[::-1]
        highest = max(box.y0, box.y1 + 8 - heights.sum())
        places = np.clip((up + down) / 2, box.y0 - 8, highest) + below
        for text, y in zip(labels, places, strict=True):
            text.set_position((1.05, (y - box.y0) / box.height))


def _inline(svg: str, alt: str, caption: str) -> str:
    """matplotlib's SVG made fit for a page.

    No prolog, no style element (its rule would reach the whole page), no font but the page's, ink
    that follows the page, and no ids but those referred to, which no other drawing has.
    """
    body = re.sub(r"<!--.*?-->|<defs>\s*<style.*?</defs>", "", svg[svg.index("<svg") :], flags=re.S)
    body = re.sub(r"\s+(?=<)", "", body).replace("xlink:href", "href").replace(INK, "currentColor")
    body = re.sub(
        r' (?:d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+|\s*L(?= )", r"\1", m[0]), body
    )
    halo = "stroke: var(--halo); stroke-width: 3px; paint-order: stroke"  # text over lines
    body = re.sub(r"font-family: [^;\"]*", halo, body)
    prefix = "f" + hashlib.sha256(f"{alt}{caption}{body}".encode()).hexdigest()[:10]
    used = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    names = {name: f"{prefix}-{k}" for k, name in enumerate(used)}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{names[m[1]]}"' if m[1] in names else "", body)
    body = re.sub(r"#([\w-]+)", lambda m: "#" + names.get(m[1], m[1]), body)
    width, height = re.search(r'viewBox="0 0 (\S+) (\S+)"', body).groups()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(alt)}" '
        f'viewBox="0 0 {width} {height}" style="display:block;width:100%;'
        f"max-width:{float(width) * 4 / 3:.0f}px;height:auto;overflow:visible;font-family:inherit;"
        "stroke-linejoin:round;stroke-linecap:butt;"
        "color:var(--pst-color-text-base, var(--jp-ui-font-color1, #222));"
        '--halo:var(--pst-color-background, var(--jp-layout-color0, transparent))">'
    ) + body[body.index(">") + 1 :]
