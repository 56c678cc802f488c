"""The curves of a training as one picture: a row for each run, a panel for each kind of measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from linker.records import atomic

KINDS = ("loss", "region", "noise", "gate", "measured", "gradient", "seconds")
KIND = {"loss": "loss", "alpha": "gate", "off": "measured", "grad_norm": "gradient"}
KIND |= {"step_s": "seconds", "data_s": "seconds"}
TITLES = {
    "region": "error by region",
    "noise": "error by timestep",
    "gate": "alpha and gate",
    "seconds": "seconds a step",
}
UNSEEN = ("step", "hours", "rate", "data_share", "frames_per_s")
POINTS = 100  # of a smoothed curve in the picture
Lines = list[dict[str, float]]


def draw_curves(runs: dict[str, Lines], path: Path) -> None:
    """Write the PNG `path` of the metrics of every run, by its name; runs without a line are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {name: kinds_of(lines) for name, lines in runs.items() if lines}
    rows, columns = max(len(shown), 1), max((len(kinds) for kinds in shown.values()), default=1)
    figure = Figure((3.4 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for row, (name, kinds) in enumerate(shown.items()):
        for column, kind in enumerate(kind for kind in KINDS if kind in kinds):
            _draw(grid[row][column], runs[name], kinds[kind])
            grid[row][column].set_title(f"{name}: {TITLES.get(kind, kind)}", fontsize=9)
    FigureCanvasAgg(figure)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def kinds_of(lines: Lines) -> dict[str, list[str]]:
    """The names that were measured, by kind. Raises ValueError for a name of no kind, which would not be drawn."""
    found: dict[str, list[str]] = {}
    for name in sorted({name for line in lines for name in line} - set(UNSEEN)):
        kind = name.partition("/")[0]
        kind = KIND.get(kind, kind if "/" in name else "measured")
        if kind not in KINDS:
            raise ValueError(f"{name} is of no kind: found {kind}, needed one of {', '.join(KINDS)}")
        found.setdefault(kind, []).append(name)
    return found


def _draw(axes: Any, lines: Lines, names: list[str]) -> None:
    axes.set_visible(True)
    axes.tick_params(labelsize=7)
    for name in names:
        steps, values = thinned(lines, name, POINTS)
        axes.plot(steps, values, linewidth=1.1, label=name.removeprefix("region/").removeprefix("noise/"))
    if names not in (["loss"], ["grad_norm"]):
        axes.legend(fontsize=6, frameon=False)


def thinned(lines: Lines, name: str, points: int) -> tuple[list[float], list[float]]:
    """Steps and values of at most `points` stretches of a run, each the mean of its lines."""
    told = np.array([(line["step"], line[name]) for line in lines if name in line], np.float64)
    pieces = np.array_split(told, min(len(told), points))
    means = np.stack([piece.mean(0) for piece in pieces])
    return means[:, 0].tolist(), means[:, 1].tolist()
