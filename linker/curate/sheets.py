"""Pictures of what was kept and dropped: contact sheets by reason, hours dropped by reason (the paper's Figure 4)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from linker.config import FPS
from linker.curate.measure import Measures
from linker.curate.verdicts import STAGES
from linker.records import atomic

if TYPE_CHECKING:
    from linker.curate.funnel import Judged

CELL_PX = (168, 126)
COLUMNS, PICTURES, MOST = 2, 4, 24  # segments a row, pictures a segment, segments a sheet
COLOURS = ("#7a7a7a", "#c44e52", "#dd8452", "#4c72b0", "#55a868")


def draw_sheets(folder: Path, judged: list[Judged], measured: dict[str, Path]) -> None:
    """{stage}-{kind}.jpg for each reason and kept.jpg, up to MOST segments each, evenly chosen."""
    groups: dict[str, list[Judged]] = defaultdict(list)
    for segment in judged:
        if segment.measured:
            groups[f"{segment.dropped}-{segment.kind}" if segment.dropped else "kept"].append(segment)
    for path in folder.glob("*.jpg"):
        if path.stem not in groups:
            path.unlink()
    for name, group in groups.items():
        chosen = [group[i] for i in np.linspace(0, len(group) - 1, min(MOST, len(group))).astype(int)]
        strips = [_strip(segment, Measures.load(measured[segment.video.id])) for segment in chosen]
        strips += [np.full_like(strips[0], 255)] * (-len(strips) % COLUMNS)
        rows = [np.concatenate(strips[i : i + COLUMNS], 1) for i in range(0, len(strips), COLUMNS)]
        with atomic(folder / f"{name}.jpg") as temporary:
            Image.fromarray(np.concatenate(rows)).save(temporary, quality=85)


def _strip(segment: Judged, measures: Measures) -> np.ndarray:
    """Four pictures of a segment under its name: of the frames that decided, otherwise evenly spread."""
    first, last = segment.frames[0] if segment.frames else (segment.first, segment.last)
    around = (max(segment.first, first - FPS // 2), min(segment.last, last + FPS // 2))
    numbers = np.linspace(around[0], around[1] - 1, PICTURES).astype(int)
    cells = [_cell(measures.preview(int(number))) for number in numbers]
    strip = np.concatenate(cells, 1)
    picture = Image.fromarray(np.concatenate([np.full((30, *strip.shape[1:]), 255, np.uint8), strip]))
    draw = ImageDraw.Draw(picture)
    draw.text((4, 2), f"{segment.key}  {segment.first / FPS:.1f}-{segment.last / FPS:.1f} s", "black")
    draw.text((4, 15), segment.reason[:110], "#a00000")
    return np.asarray(picture)


def _cell(picture: np.ndarray) -> np.ndarray:
    """Fitted into CELL_PX with a grey border."""
    width, height = CELL_PX
    scale = min((width - 4) / picture.shape[1], (height - 4) / picture.shape[0])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cell = np.full((height, width, 3), 200, np.uint8)
    y, x = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    cell[y : y + small.shape[0], x : x + small.shape[1]] = small
    return cell


def draw_dropped(path: Path, judged: list[Judged]) -> None:
    """Minutes dropped by reason, coloured by stage."""
    from matplotlib.figure import Figure

    minutes: dict[tuple[str, str], float] = defaultdict(float)
    for segment in judged:
        if segment.dropped:
            minutes[segment.dropped, segment.kind] += segment.hours * 60
    order = sorted(minutes, key=lambda key: (STAGES.index(key[0]), minutes[key]), reverse=True)
    figure = Figure(figsize=(8, max(2.0, 0.32 * len(order) + 1)), layout="constrained")
    axes = figure.subplots()
    colours = [COLOURS[STAGES.index(stage)] for stage, _ in order]
    axes.barh([f"{stage}: {kind}" for stage, kind in order], [minutes[key] for key in order], color=colours)
    axes.set_xlabel("minutes dropped, by the first stage that refused them")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
