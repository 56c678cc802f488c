"""What surrounds the picture in the deliverable: padding to another aspect, and a label that is burned in."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from linker.compose import Placement, even, padded_size
from linker.config import FinishSettings
from linker.errors import EnvironmentError

LABEL_SHARE = 0.05  # height of a label's letters, of the shorter side: the least that is asked for anywhere
SLIVER_PX = 8  # gaps up to this, from rounding to even sides, continue the picture's border
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
PADDING_LIGHT = 0.55  # of the blurred picture: darker than the picture itself, so that eyes stay on that


@dataclass(frozen=True)
class Canvas:
    """A frame with a place for the picture. `padding` uint8 (H,W,3); `label` float32 (h,w,4) in 0..255 and 0..1."""

    padding: np.ndarray
    label: np.ndarray | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), both even."""
        return self.padding.shape[1], self.padding.shape[0]

    def lay(self, picture: np.ndarray) -> np.ndarray:
        """The whole frame uint8 (H,W,3) with this picture in it."""
        frame = self.padding.copy()
        rows, above, below = _centred(picture.shape[0], frame.shape[0])
        columns, before, after = _centred(picture.shape[1], frame.shape[1])
        frame[rows, columns] = cv2.copyMakeBorder(picture, above, below, before, after, cv2.BORDER_REPLICATE)
        if self.label is not None:
            self._burn(frame)
        return frame

    def _burn(self, frame: np.ndarray) -> None:
        assert self.label is not None
        height, width = self.label.shape[:2]
        gap = _letter_px(self.size) // 2
        place = frame[gap : gap + height, frame.shape[1] - gap - width : frame.shape[1] - gap]
        colour, weight = self.label[..., :3], self.label[..., 3:]
        place[:] = (colour * weight + place * (1 - weight) + 0.5).astype(np.uint8)


def _centred(length: int, room: int) -> tuple[slice, int, int]:
    """Where something lies in the middle of `room`, and by how much it is continued on either side to fill slivers."""
    before, after = (room - length) // 2, room - length - (room - length) // 2
    if room - length > SLIVER_PX:
        return slice(before, before + length), 0, 0
    return slice(0, room), before, after


def make_canvas(still: np.ndarray, placement: Placement, settings: FinishSettings) -> Canvas:
    """The frame for pictures of the placement's size; `still` uint8 (h,w,3) is what a blurred padding shows."""
    width, height = frame_size(placement, settings)
    padding = _padding(still, (width, height), settings.fill)
    label = draw_label(settings.label, settings.label_font, (width, height)) if settings.label else None
    return Canvas(padding, label)


def frame_size(placement: Placement, settings: FinishSettings) -> tuple[int, int]:
    """(width, height) of the deliverable: exactly the aspect where the picture's even sides leave room for it."""
    x0, y0, x1, y1 = placement.source_box
    if settings.aspect == "as_is" and not settings.side_px:
        return placement.width, placement.height
    scale = placement.crop_px / _crop_source_px(placement)
    width, height = padded_size(((x1 - x0) * scale, (y1 - y0) * scale), settings.aspect)
    longest = settings.side_px and min(settings.side_px, settings.max_side_px)
    if longest:
        width, height = (longest / max(width, height) * side for side in (width, height))
    return max(even(width + 0.5), placement.width), max(even(height + 0.5), placement.height)


def _crop_source_px(placement: Placement) -> float:
    """Side of the crop in the portrait's pixels."""
    x0, _, x1, _ = placement.source_box
    return (x1 - x0) * placement.crop_px / placement.width


def _padding(still: np.ndarray, size: tuple[int, int], fill: str) -> np.ndarray:
    width, height = size
    if fill == "black" or still.shape[:2] == (height, width):
        return np.zeros((height, width, 3), np.uint8)
    scale = max(width / still.shape[1], height / still.shape[0]) / 8  # blurred at an eighth: it is all the same
    small = cv2.resize(still, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = max((small.shape[0] - height // 8) // 2, 0), max((small.shape[1] - width // 8) // 2, 0)
    middle = small[top : top + max(height // 8, 1), left : left + max(width // 8, 1)]
    blurred = cv2.GaussianBlur(middle, (0, 0), max(middle.shape) / 24) * PADDING_LIGHT
    return cv2.resize(blurred, size, interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def draw_label(text: str, font_file: str, frame: tuple[int, int]) -> np.ndarray:
    """White letters on a dark plate for a frame of this width and height, float32 (h,w,4), in as many lines as needed.

    Raises EnvironmentError for a font that cannot be used, or has not all the letters.
    """
    size = _letter_px(frame)
    font, inset = _font(font_file, size), size // 2
    _refuse_missing(text, font, font_file)
    lines = _lines(text, font, frame[0] - 2 * (size // 2) - 2 * inset)
    width = math.ceil(max(font.getlength(line) for line in lines)) + 2 * inset
    plate = Image.new("RGBA", (width, inset + size * len(lines)), (0, 0, 0, 150))
    draw = ImageDraw.Draw(plate)
    for number, line in enumerate(lines):
        middle = inset / 2 + size * (number + 0.5)
        draw.text((plate.width / 2, middle), line, font=font, fill=(255, 255, 255, 255), anchor="mm")
    return np.asarray(plate, np.float32) / np.array([1, 1, 1, 255], np.float32)


def _letter_px(frame: tuple[int, int]) -> int:
    return max(round(min(frame) * LABEL_SHARE), 8)


def _lines(text: str, font: Font, room_px: float) -> list[str]:
    """The text in lines that fit: broken between words, and within a word only where it is longer than a line."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= room_px:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > room_px:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line] or [""]


def _refuse_missing(text: str, font: Font, font_file: str) -> None:
    """A font draws one and the same sign, or nothing at all, for every letter that it lacks."""
    missing = {_drawn(letter, font) for letter in ("\uffff", "\U000f0000")}
    letters = [letter for letter in dict.fromkeys(text) if unicodedata.category(letter)[0] not in "ZC"]
    if lacking := [letter for letter in letters if (drawn := _drawn(letter, font)) in missing or not any(drawn[1])]:
        found = f"{font_file or 'the built-in font'} has no {' '.join(lacking)}"
        raise EnvironmentError(
            f"finish.label: {found}; set finish.label_font to a font file (.ttf, .otf) of that script"
        )


def _drawn(letter: str, font: Font) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


def _font(font_file: str, size: int) -> Font:
    if not font_file:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(Path(font_file), size)
    except OSError as error:
        raise EnvironmentError(f"finish.label_font: {font_file} is no font that can be read ({error})") from None
