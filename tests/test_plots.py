"""Figures: fit for a page, a phone, a dark page, and readers who see no colour or no image."""

import base64
import hashlib
import io
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from course_lib import plots

ALT = "What is to be seen in this figure, told in more than forty characters."
SAY = {"alt": ALT, "caption": "One message"}
STEPS = np.array([0, 1, 2, 5, 10, 20, 50, 100])
ROWS = {"S1": (0.013, 0.006, 0.02, 0.004, 0.022)}
SVG = "{http://www.w3.org/2000/svg}"


def falling(seed=0, num_seeds=4):
    rng = np.random.default_rng(seed)
    return 2.3 * np.exp(-STEPS / 40) + 0.1 * rng.random((num_seeds, len(STEPS)))


def some_arms(**options):
    values = {"as posted": [0.30, 0.34, 0.38], "standardised": [0.50, 0.51, 0.49]}
    return plots.arms(values, metric="test accuracy", unit="%", **(SAY | options))


def some_curves(**options):
    series = {"as posted": (STEPS, falling()), "quick": (STEPS, falling(1)[0])}
    return plots.curves(series, **({"y_label": "loss", "y_unit": "squares"} | SAY | options))


def some_images(num=5):
    return np.random.default_rng(0).integers(0, 256, (num, 6, 4, 3), dtype=np.uint8)


def one_of_each():
    part = partial(plots.curves, {"quick": (STEPS, falling())}, y_label="loss", log_x=True)
    values = np.random.default_rng(0).normal(0.5, 0.01, 50)
    half = 0.01 / np.sqrt(np.arange(1, 21))
    verdict = partial(plots.verdict_bars, ROWS, metric="difference", unit="points", **SAY)
    return {
        "arms": some_arms(references={"the text's 50 %": 0.5}),
        "curves": some_curves(log_x=True, references={"ln 10": 2.3}, events={"epoch 1": 50}),
        "panels": plots.panels([part, part], x_label="step", **SAY),
        "resolution": plots.resolution(np.arange(1, 21), half, 1.3 * half, marks=(1, 5), **SAY),
        "histogram": plots.histogram(values, metric="test accuracy", unit="%", **SAY),
        "verdict": verdict(holds=(0.01, None), holds_label="holds: better by 1 point"),
        "grid": plots.image_grid(some_images(), list("abcde"), columns=3, **SAY),
    }


@pytest.fixture(scope="module")
def figures():
    return one_of_each()


@pytest.fixture(scope="module")
def pages(figures):
    return {name: figure._repr_html_() for name, figure in figures.items()}


def words(figure):
    """All text of a figure's SVG, joined."""
    return " | ".join(t.text or "" for t in ElementTree.fromstring(figure.svg()).iter(f"{SVG}text"))


def crosses(axes):
    return [tuple(np.ravel(line.get_xydata())) for line in axes.lines if line.get_marker() == "x"]


# Fit for a page


def test_every_figure_is_one_well_formed_svg_with_words_for_those_who_cannot_see(pages):
    for page in pages.values():
        root = ElementTree.fromstring(page)
        assert root.tag == "figure" and root.get("class") == "chart"
        svg, caption = root
        assert svg.tag == f"{SVG}svg" and caption.tag == "figcaption"
        assert svg.get("role") == "img" and svg.get("aria-label") == ALT
        assert caption.text.startswith("One message. ") and caption.text.endswith(".")


def test_ids_are_unique_on_a_page_and_every_reference_resolves(pages):
    whole = "".join(pages.values())
    ids = re.findall(r' id="([^"]+)"', whole)
    refs = re.findall(r'(?:url\(|href=")#([^")]+)', whole)
    assert len(ids) == len(set(ids)) > 5
    assert set(refs) == set(ids)


def test_two_figures_that_differ_in_one_value_share_no_id():
    one, two = (some_curves(references={"x": y}).svg() for y in (1.0, 1.5))
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]


def test_nothing_reaches_beyond_the_figure(pages):
    for page in pages.values():
        assert plots.INK not in page and "currentColor" in page
        assert "--pst-color-text-base, var(--jp-ui-font-color1, #222)" in page
        for banned in ("<style", "<metadata", "<!--", "@font-face", "DejaVu", "xlink", "<script"):
            assert banned not in page
        assert set(re.findall(r"https?://[^\s\"')]+", page)) == {"http://www.w3.org/2000/svg"}
        assert set(re.findall(r"font-family:\s*([^;\"]+)", page)) == {"inherit"}


def test_same_data_same_bytes_also_in_another_process_without_torch_or_pyplot():
    code = (
        "import hashlib, sys\n"
        "from tests.test_plots import some_curves\n"
        "print(hashlib.sha256(some_curves()._repr_html_().encode()).hexdigest())\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    root = Path(__file__).parent.parent
    env = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(root)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == hashlib.sha256(some_curves()._repr_html_().encode()).hexdigest()


def test_drawing_twice_changes_nothing(figures, pages):
    assert {name: figure._repr_html_() for name, figure in figures.items()} == pages


def test_the_house_style_stays_inside(figures):
    before = dict(matplotlib.rcParams)
    some_arms().svg()
    assert dict(matplotlib.rcParams) == before


def test_text_stays_readable_on_a_phone_and_is_text(figures):
    for name, figure in figures.items():
        svg = figure.svg()
        natural = float(re.search(r'viewBox="0 0 (\S+) ', svg)[1]) * 4 / 3
        assert 500 < natural < 620 and f"max-width:{natural:.0f}px" in svg
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
        assert min(sizes) * 4 / 3 * 360 / natural >= 8.5, name
        assert len(words(figure)) > 5


def test_words_with_markup_are_shown_as_they_are():
    figure = some_curves(
        caption="a < b & 'c'", alt='5 > 3 & "quoted" ' + ALT, y_label="$x_1$ & <y>"
    )
    svg, caption = ElementTree.fromstring(figure._repr_html_())
    assert caption.text.startswith("a < b & 'c'.")
    assert svg.get("aria-label").startswith('5 > 3 & "quoted" ')
    assert "$x_1$ & <y> (squares)" in words(figure)


@pytest.mark.parametrize("missing", [{"alt": "too short"}, {"alt": ""}, {"caption": "  "}])
def test_alternative_text_and_caption_are_required(missing):
    with pytest.raises(ValueError, match=f"{next(iter(missing))} is .*say in"):
        some_arms(**missing)


def test_a_caption_keeps_its_own_full_stop_and_numbers_do_not_break():
    caption = some_arms(caption="Is it so?").caption
    assert caption.startswith("Is it so? n\u00a0=\u00a03; dots are seeds; ")
    assert caption.endswith("95\u00a0% interval.")


# Colours


def linear(colour):
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one, two):
    """Contrast ratio of WCAG 2."""
    low, high = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, two))
    return (high + 0.05) / (low + 0.05)


def oklab(rgb):
    to_lms = [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970],
              [0.0883025, 0.2817188, 0.6299787]]  # fmt: skip
    to_lab = [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937],
              [0.0259040, 0.7827718, -0.8086758]]  # fmt: skip
    return np.cbrt(np.clip(rgb, 0, 1) @ np.transpose(to_lms)) @ np.transpose(to_lab)


# Machado, Oliveira and Fernandes 2009, severity 1.0, for linear RGB
SIGHT = {
    "full": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


@pytest.mark.parametrize("page", ["#ffffff", "#14181e", "#121212"])
def test_every_colour_reads_on_light_and_dark_pages(page):
    assert min(contrast(colour, page) for colour in plots.PALETTE) >= 3


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_told_apart(sight):
    seen = oklab(np.array([linear(c) for c in plots.PALETTE]) @ np.transpose(SIGHT[sight]))
    distance = np.linalg.norm(seen[:, None] - seen, axis=-1) + np.eye(len(seen))
    assert distance.min() >= 0.07


def colours_of(arms):
    return {arm: style["color"] for arm, style in plots._arm_styles(arms).items()}


def test_named_arms_keep_their_colour_and_others_never_take_it():
    alone = colours_of(["as posted"])["as posted"]
    colours = colours_of(["mine", "as posted", "yours", "quick", "thread"])
    assert colours["as posted"] == alone
    assert len(set(colours.values())) == 5
    assert len(set(colours_of(list(plots.NAMED_ARMS)).values())) == len(plots.NAMED_ARMS)


def test_colours_depend_on_the_study_alone_and_marker_and_dash_tell_the_rest():
    study = [f"arm {i}" for i in range(20)]
    assert colours_of(study) == colours_of(tuple(study))
    styles = plots._arm_styles(study).values()
    assert len({(s["color"], s["marker"]) for s in styles}) == 20
    assert len({(s["color"], str(s["ls"])) for s in styles}) == 20
    assert len({s["marker"] for s in list(styles)[:8]}) == 8


def test_an_arm_drawn_alone_keeps_the_colour_of_its_study():
    study = ["a", "b", "c"]
    series = {"c": (STEPS, falling()[0])}
    figure = plots.curves(series, y_label="loss", study_arms=study, **SAY)
    assert figure.fig.axes[0].lines[0].get_color() == colours_of(study)["c"]
    with pytest.raises(ValueError, match="study_arms.*draw some of the study's"):
        plots.curves(series, y_label="loss", study_arms=["a"], **SAY)
    with pytest.raises(ValueError, match="draw some"):
        plots.arms({}, metric="loss", **SAY)


# Each figure


def test_mean_and_interval_agree_with_scipy():
    from scipy import stats

    values = np.random.default_rng(3).normal(5, 2, 12)
    mean, half = plots._mean_interval(values)
    low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_arms_draws_every_seed_in_percent_with_its_interval():
    figure = some_arms(references={"the text's 50 %": 0.5})
    axes = figure.fig.axes[0]
    dots = [
        line for line in axes.lines if line.get_linestyle() == "None" and len(line.get_xdata()) == 3
    ]
    assert [sorted(line.get_xdata()) for line in dots] == [
        pytest.approx([30, 34, 38]),
        pytest.approx([49, 50, 51]),
    ]
    text = words(figure)
    for expected in ("34 (24 to 44)", "50 (48 to 52)", "the text's 50 %", "test accuracy (%)"):
        assert expected in text
    pieces = [piece for lines in axes.collections for piece in lines.get_segments()]
    assert [piece[:, 0].tolist() for piece in pieces] == [[50, 50]] * 2  # one behind each row
    below_words = [
        piece[:, 1].max() <= row + 0.25 for row, piece in zip((0, -1), pieces, strict=True)
    ]
    assert all(below_words)


def test_arms_counts_what_cannot_be_drawn_and_survives_few_seeds():
    values = {"a": [1.0, None, 3.0], "b": [np.inf], "c": [2.5]}
    figure = plots.arms(values, metric="loss", unit="squares", **SAY)
    assert "n = 1 to 3" in figure.caption.replace("\u00a0", " ")
    assert "2 not finite, left out" in figure.caption
    assert "no finite value" in words(figure) and "2.5" in words(figure)


def test_groups_are_rows_of_their_own_and_only_the_last_is_filled():
    groups = {"train": [0.6, 0.62], "test": [0.5, 0.51]}
    figure = plots.arms({"quick": groups}, metric="accuracy", unit="%", **SAY)
    dots = [line for line in figure.fig.axes[0].lines if line.get_linestyle() == "None"]
    faces = [line.get_markerfacecolor() for line in dots if len(line.get_xdata()) == 2]
    assert faces == ["none", colours_of(["quick"])["quick"] + "99"]
    assert "quick, train" in words(figure) and "quick, test" in words(figure)


def test_a_run_ends_with_a_cross_at_its_last_finite_value():
    runs = falling().tolist()
    runs[0][3:] = [np.nan] * 5
    runs[1][6] = np.inf  # and finite again after it: the run is over all the same
    runs[2] = runs[2][:5]
    figure = plots.curves({"quick": (STEPS, runs)}, y_label="loss", **SAY)
    assert crosses(figure.fig.axes[0]) == [
        (2, runs[0][2]),
        (20, runs[1][5]),
        (10, runs[2][4]),
    ]
    assert "diverged" in figure.caption and "diverged" not in some_curves().caption


def test_the_median_is_of_the_runs_that_go_on_and_stops_with_half_of_them():
    runs = plots._runs("a", STEPS, [[1.0] * 8, [2.0] * 8, [9.0] * 4, [7.0] * 2])
    np.testing.assert_array_equal(plots._median(runs), [4.5, 4.5, 2, 2, 1.5, 1.5, 1.5, 1.5])
    runs = plots._runs("a", STEPS, [[1.0] * 8, [2.0] * 3, [9.0] * 3])
    assert len(plots._median(runs)) == 3


@pytest.mark.parametrize(("step", "whole"), [(1, True), (0.1, False)])
def test_an_axis_of_epochs_has_no_half_epochs(step, whole):
    x = step * np.arange(1, 21)
    figure = plots.curves({"quick": (x, x)}, y_label="loss", x_label="epoch", **SAY)
    ticks = figure.fig.axes[0].get_xticks()
    assert (ticks == ticks.round()).all() == whole


def test_curves_without_any_finite_value_can_still_be_drawn():
    figure = plots.curves(
        {"quick": (STEPS, [np.nan] * 8)}, y_label="loss", references={"r": 1}, **SAY
    )
    assert "diverged" in figure.caption


def test_single_lines_say_no_n_and_several_seeds_do():
    assert "n\u00a0=\u00a04" in some_curves().caption
    alone = plots.curves({"quick": (STEPS, falling()[0])}, y_label="loss", **SAY)
    assert alone.caption == "One message."


def test_bands_references_and_events_are_in_the_unit_of_the_axis():
    y = np.linspace(0.1, 0.6, len(STEPS))
    lines = {"references": {"half": 0.5}, "events": {"epoch 1": 50}}
    band = {"quick": (y - 0.05, y + 0.05)}
    figure = plots.curves(
        {"quick": (STEPS, y)}, y_label="accuracy", y_unit="%", bands=band, **lines, **SAY
    )
    axes = figure.fig.axes[0]
    assert axes.collections[0].get_datalim(axes.transData).y1 == pytest.approx(65)
    assert [50, 50] in [list(line.get_ydata()) for line in axes.lines]
    assert [50, 50] in [list(line.get_xdata()) for line in axes.lines]
    assert "half" in words(figure) and "epoch 1" in words(figure)


def test_labels_at_the_ends_never_overlap_nor_leave_their_order():
    series = {f"an arm with a long name, {i}": (STEPS, falling()[0] + 1e-3 * i) for i in range(9)}
    figure = plots.curves(series, y_label="loss", **SAY)
    figure.fig.draw_without_rendering()
    texts = [t for t in figure.fig.axes[0].texts if t.get_gid() == "end"]
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in texts]
    assert len(boxes) == 9
    for below, above in zip(boxes, boxes[1:], strict=False):
        assert below.y1 <= above.y0 + 0.5
    assert max(box.x1 for box in boxes) <= figure.fig.bbox.x1


def test_labels_with_room_stay_at_their_lines():
    series = {"low": (STEPS, 0 * STEPS + 1.0), "high": (STEPS, 0 * STEPS + 2.0)}
    axes = plots.curves(series, y_label="loss", **SAY).fig.axes[0]
    for label in (t for t in axes.texts if t.get_gid() == "end"):
        height = axes.transAxes.inverted().transform(axes.transData.transform(label.xy))[1]
        assert label.get_position()[1] == pytest.approx(height, abs=1e-6)


def test_log_axes_start_at_step_0_and_name_what_they_cannot_show():
    figure = some_curves(log_x=True, log_y=True)
    axes = figure.fig.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("symlog", "log")
    assert words(figure).startswith("0 | 1 | 10 | 100 | ")
    with pytest.raises(ValueError, match="y goes down to 0, log_y needs y > 0: pass False"):
        plots.curves({"a": ([1, 2], [0.0, 1.0])}, y_label="share", log_y=True, **SAY)
    with pytest.raises(ValueError, match="x goes down to -1, log_x needs x ≥ 0: pass False"):
        plots.curves({"a": ([-1, 2], [1.0, 1.0])}, y_label="share", log_x=True, **SAY)


@pytest.mark.parametrize("y", [[], [1.0] * 9, [[1.0] * 9]])
def test_curves_needs_one_x_a_value(y):
    with pytest.raises(ValueError, match="'quick' has . values for 8 x: pass one x a value"):
        plots.curves({"quick": (STEPS, y)}, y_label="loss", **SAY)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (1000, "1,000"), (-2.5, "−2.5"), (1e-5, "10⁻⁵"), (1e7, "10⁷")],
)
def test_ticks_are_plain_numbers(value, text):
    assert plots._tick(value, 0) == text


def test_event_labels_have_room_above_the_data():
    axes = some_curves(events={"epoch 1": 50, "epoch 2": 90}).fig.axes[0]
    axes.figure.draw_without_rendering()
    labels = [t for t in axes.texts if t.get_text().startswith("epoch")]
    boxes = [matplotlib.text.Text.get_window_extent(label) for label in labels]
    highest = axes.transData.transform((0, falling().max()))[1]
    assert boxes[0].y0 >= boxes[1].y1 and boxes[1].y0 >= highest


def test_panels_share_the_steps_and_say_each_note_once():
    parts = [
        partial(plots.curves, {"quick": (STEPS, falling())}, y_label=name, log_x=True)
        for name in ("loss", "accuracy", "gradient norm", "dead share")
    ]
    figure = plots.panels(parts, x_label="step", **SAY)
    assert len(figure.fig.axes) == 4
    assert len({axes.get_xlim() for axes in figure.fig.axes}) == 1
    assert words(figure).count("step") == 1
    assert figure.caption.count("thick lines their median") == 1
    with pytest.raises(ValueError, match="parts is empty: pass at least one"):
        plots.panels([], x_label="step", **SAY)


def test_given_axes_are_drawn_on_and_the_note_comes_back():
    axes = matplotlib.figure.Figure().add_subplot()
    note = plots.curves({"quick": (STEPS, falling())}, y_label="loss", ax=axes)
    assert note == "n = 4; thin lines are seeds, thick lines their median"
    assert axes.lines


def test_resolution_prints_what_the_marked_numbers_of_seeds_resolve():
    n = np.arange(1, 21)
    marks = (1, 3, 5, 10)
    figure = plots.resolution(n, 0.02 / np.sqrt(n), 0.03 / np.sqrt(n), marks=marks, **SAY)
    axes, text = figure.fig.axes[0], words(figure)
    assert list(axes.get_xticks()) == [1, 3, 5, 10] and axes.get_ylim()[0] == 0
    for expected in ("| 2 |", "1.2", "0.89", "0.63", "| 3 |", "1.7", "1.3", "0.95", "(points)"):
        assert expected in text


def test_histogram_states_mean_deviation_and_range_of_all_values():
    values = np.array([0.40, 0.50, 0.50, 0.60])
    figure = plots.histogram(values, metric="accuracy", unit="%", **SAY)
    text = words(figure)
    for expected in ("mean 50", "standard deviation 8", "lowest 40", "highest 60", "(%)"):
        assert expected in text
    assert sum(bar.get_height() for bar in figure.fig.axes[0].patches) == 4
    for wrong, counts in (([0.5], "1 numbers, 1"), ([0.5, np.nan, 0.6], "3 numbers, 2")):
        with pytest.raises(ValueError, match=f"values has {counts} of them finite: give two"):
            plots.histogram(wrong, metric="accuracy", **SAY)


@pytest.mark.parametrize(
    ("holds", "left", "right"),
    [((0.01, None), 1, None), ((None, 0.01), None, 1), ((-0.01, 0.01), -1, 1)],
)
def test_verdict_bars_shade_where_the_claim_holds(holds, left, right):
    figure = plots.verdict_bars(
        ROWS, holds=holds, holds_label="holds: so", metric="difference", unit="points", **SAY
    )
    axes = figure.fig.axes[0]
    shade, limits = axes.patches[0].get_bbox(), axes.get_xlim()
    assert shade.x0 == pytest.approx(limits[0] if left is None else left)
    assert shade.x1 == pytest.approx(limits[1] if right is None else right)
    assert limits[0] < 0 < 2.2 < limits[1]
    assert "+1.3 (99 %: +0.4 to +2.2)" in words(figure) and "holds: so" in words(figure)
    assert figure.fig.get_figheight() <= 1.3


def test_verdict_bars_refuse_what_is_no_interval():
    draw = partial(plots.verdict_bars, holds_label="so", metric="difference", **SAY)
    for numbers in ((1, 2, 3), (1, 2, 3, None, 5)):
        with pytest.raises(ValueError, match="'S1'.*pass effect, low95, high95, low99, high99"):
            draw({"S1": numbers}, holds=(0, None))
    with pytest.raises(ValueError, match=r"holds is \(None, None\): .* one edge or two"):
        draw(ROWS, holds=(None, None))


def test_images_come_back_from_the_page_to_the_last_pixel():
    from PIL import Image

    images = some_images(5)
    svg = plots.image_grid(images, "abcde", columns=3, **SAY).svg()
    data = re.findall(r"data:image/png;base64,([^\"]+)", svg)
    assert len(data) == 1
    mosaic = np.array(Image.open(io.BytesIO(base64.b64decode(data[0]))))
    for i, image in enumerate(images):
        top, left = i // 3 * 7 + 1, i % 3 * 6 + 1
        np.testing.assert_array_equal(mosaic[top : top + 6, left : left + 4, :3], image)
    assert mosaic[:1, :, 3].max() == 0  # between the images the page shows through


def test_image_grid_names_the_remedy_for_other_arrays():
    images = some_images(3)
    for wrong in (images / 255, images[0], images.transpose(0, 3, 1, 2), images[:0]):
        with pytest.raises(ValueError, match=r"images is .*pass uint8 \(N, H, W, 3\)"):
            plots.image_grid(wrong, "abc", columns=3, **SAY)
    with pytest.raises(ValueError, match="titles has 1 entries for 3 images"):
        plots.image_grid(images, ["one"], columns=3, **SAY)


def test_a_matrix_has_a_dot_for_each_share_and_none_where_nothing_was_asked():
    shares = {"judge": {"no_zero_grad": {"mlp": 1.0, "cnn": 0.0}, "broadcast": {"regression": 0.5}}}
    shares["judge"]["init_zero"] = {"mlp": 0.0, "cnn": 0.0}
    figure = plots.matrix(shares, alt=ALT, caption="Which net shows which fault.")
    assert figure.caption.endswith("1 more row is hollow throughout.")
    axes = figure.fig.axes[0]
    rings = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert len(rings) == 3 and [line.get_alpha() for line in axes.lines if line not in rings] == [
        1.0, 0.0, 0.5,
    ]  # fmt: skip
    assert [label.get_text() for label in axes.get_xticklabels()] == ["mlp", "cnn", "regression"]
    with pytest.raises(ValueError, match="give at least one row"):
        plots.matrix({"judge": {}}, alt=ALT, caption="Nothing.")


# -------------------------------------------------------------------------- what a picture shows


def test_pixels_are_those_that_matplotlib_saves():
    values = np.random.default_rng(0).random((5, 7))
    figure = matplotlib.figure.Figure(figsize=(7, 5), dpi=1)
    figure.figimage(values)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    saved = np.frombuffer(buffer.getvalue(), dtype=np.uint8).reshape(5, 7, 4)[..., :3]
    np.testing.assert_allclose(plots.seen(values).astype(int), saved.astype(int), atol=3)


def test_one_pixel_a_value_in_its_place_and_nan_is_the_page():
    values = np.arange(12.0).reshape(3, 4)
    values[1, 2] = np.nan
    pixels = plots.seen(values, cmap="gray")
    assert pixels.shape == (3, 4, 3) and (pixels[1, 2] == 255).all()
    greys = pixels[..., 0].astype(int)
    np.testing.assert_allclose(
        greys[~np.isnan(values)], values[~np.isnan(values)] / 11 * 255, atol=1
    )
    colours = some_images(1)[0]
    np.testing.assert_array_equal(plots.seen(colours), colours)


def test_lightness_of_known_colours():
    # published values: black, white, the sRGB primaries (D65), middle grey
    colours = [[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0x80 / 255] * 3]
    expected = [0, 100, 53.24, 87.74, 32.30, 53.59]
    assert plots.lightness(np.array(colours)).tolist() == pytest.approx(expected, abs=0.02)
    assert plots.lightness([0.002] * 3) == pytest.approx(903.3 * 0.002 / 12.92, rel=1e-3)
    with pytest.raises(ValueError, match="go from 0.0 to 255.0; use"):
        plots.lightness([[0, 128, 255]])


def test_the_colours_of_a_map_are_in_order():
    grey = plots.colour_map("gray")
    np.testing.assert_allclose(grey, np.linspace(0, 1, 256)[:, None].repeat(3, axis=1))
