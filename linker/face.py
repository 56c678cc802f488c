"""Steps crop_face and extract_masks: from any portrait to the square the model animates and its three regions.

How many faces there are: with `face` given, the one named. Otherwise the largest face is taken when it is the only one,
or when every other face has at most a quarter of its area (a passer-by behind the portrayed). A second box counts as a
face only from RIVAL confidence, since toys and patterns reach less. Everything else is refused as several_faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from linker.config import FACE_PX, FaceSettings, LimitSettings
from linker.face_models import Found, find_faces, find_landmarks, overlap, subject_map
from linker.landmarks import Box, bounds, crop_box, face_height_px, region_masks, roll_deg, to_crop
from linker.pictures import PAPER, Unusable, cut_square, read_picture
from linker.records import Refusal, atomic, read_json, sha256_file, write_json

RIVAL = 0.7  # confidence from which a further box counts as a face
CERTAIN = 0.8  # confidence for telling people that their picture lies on its side
DOMINANT = 4.0  # times the area of every other face: then the largest is meant
NAMED_OVERLAP = 0.1  # share of a box given by hand that a detected face must fill to be the one meant
UPRIGHT_DEG = 60  # a head tilted further is refused rather than animated sideways
COLOURS = {"head": (60, 120, 255), "mouth": (255, 60, 60), "eyes": (60, 220, 90)}
HOW_TO_CHOOSE = "name one in the manifest's column `face`, by its number (from left to right) or as a box x0,y0,x1,y1"


@dataclass(frozen=True)
class Portrait:
    """A portrait with one face chosen: pixels uint8 (H, W, 3), mesh float (478, 2) in its pixels, faces counted."""

    picture: np.ndarray
    points: np.ndarray
    detector: str
    faces: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.picture.shape[1], self.picture.shape[0]


def crop_face(
    portrait: Path, face: Path, crop: Path, choice: str, settings: FaceSettings, limits: LimitSettings
) -> None:
    """Write `face` (512 x 512 RGB) and `crop` (box, landmarks or the refusal). `choice`: the manifest's `face`."""
    source = sha256_file(portrait) if portrait.is_file() else ""  # before it is read: what replaces it is noticed
    try:
        found = _choose(portrait, choice, settings, limits)
    except Unusable as fault:
        _write_picture(face, _refused_picture(portrait, settings, limits))
        write_json(crop, _refused(Refusal(fault.kind, str(fault), "crop_face")))
        return
    box = crop_box(found.points)
    _write_picture(face, cut_square(found.picture, box, FACE_PX))
    write_json(crop, {**_described(found, box), "source_sha256": source})


def extract_masks(face: Path, crop: Path, masks: Path, debug: Path, settings: FaceSettings) -> None:
    """Write `masks` (float16 512 x 512: head, mouth, eyes, alpha) and `debug`, a picture of them over the face.

    Of a refused portrait the masks are empty and the picture is the one with the boxes of the faces found.
    """
    facts = read_json(crop)
    picture = np.asarray(Image.open(face).convert("RGB"))
    if facts["refusal"]:
        _write_masks(masks, {name: np.zeros((FACE_PX, FACE_PX), np.float16) for name in (*COLOURS, "alpha")})
        _write_picture(debug, picture)
        return
    points, alpha = np.array(facts["landmarks"]), subject_map(picture)
    regions = region_masks(points, alpha, settings)
    _write_masks(masks, regions | {"alpha": alpha.astype(np.float16)})
    corners = np.array(facts["face_box_px"], float).reshape(2, 2)
    _write_picture(debug, _overlay(picture, regions, points, to_crop(corners, tuple(facts["box_px"]))))


def examine_portrait(portrait: Path, choice: str, settings: FaceSettings, limits: LimitSettings) -> Refusal | None:
    """Why crop_face would refuse this portrait; None when it would not."""
    try:
        _choose(portrait, choice, settings, limits)
    except Unusable as fault:
        return Refusal(fault.kind, str(fault), "crop_face")
    return None


def _choose(portrait: Path, choice: str, settings: FaceSettings, limits: LimitSettings) -> Portrait:
    """The face meant by `choice`. Raises Unusable: what read_picture raises, and no_face, several_faces, bad_choice,
    too_small, not_upright."""
    picture = read_picture(portrait, limits)
    faces = count_faces(find_faces(picture, settings.min_confidence))
    chosen = _named(choice, faces, picture) if choice.strip() else _meant(faces, picture)
    points = find_landmarks(picture, chosen.box)
    if points is None:
        reason = f"eyes and mouth could not be placed in the face at {_spell(chosen.box)}; show it from the front"
        raise Unusable("no_face", reason)
    _check_pose(points, settings)
    return Portrait(picture, points, chosen.detector, len(faces))


def count_faces(found: list[Found]) -> list[Found]:
    """The boxes that count as faces, from left to right: the most certain one and all from RIVAL confidence."""
    return sorted((face for i, face in enumerate(found) if i == 0 or face.score >= RIVAL), key=lambda face: face.box[0])


def _meant(faces: list[Found], picture: np.ndarray) -> Found:
    """The only or the dominant face."""
    if not faces:
        _explain_no_face(picture)
    largest = max(faces, key=lambda face: face.area)
    if all(face is largest or largest.area >= DOMINANT * face.area for face in faces):
        return largest
    listed = "; ".join(f"{number} = {_spell(face.box)}" for number, face in enumerate(faces))
    raise Unusable("several_faces", f"{len(faces)} faces ({listed}); {HOW_TO_CHOOSE}")


def _explain_no_face(picture: np.ndarray) -> NoReturn:
    turned = {turns: find_faces(np.ascontiguousarray(np.rot90(picture, turns)), CERTAIN) for turns in (1, 2, 3)}
    turns = max(turned, key=lambda turns: max((face.score for face in turned[turns]), default=0.0))
    if turned[turns]:
        how = {1: "a quarter turn to the left", 2: "upside down", 3: "a quarter turn to the right"}[turns]
        raise Unusable("not_upright", f"a face is seen only with the picture turned ({how}); save it upright")
    raise Unusable("no_face", "no face was found; if there is one, give its box x0,y0,x1,y1 in the column `face`")


def _named(choice: str, faces: list[Found], picture: np.ndarray) -> Found:
    """The face of this number, or the one in this box (which may hold a face that no detector found)."""
    try:
        numbers = [float(word) for word in choice.replace(" ", ",").split(",") if word]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0].is_integer():
        return _numbered(int(numbers[0]), faces)
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise Unusable("bad_choice", f"`face` is {choice!r}; needed a number from 0, or a box x0,y0,x1,y1 in pixels")
    box = _checked_box(tuple(round(number) for number in numbers), picture)
    inside = [face for face in faces if overlap(face.box, box) >= NAMED_OVERLAP and _centre_in(face.box, box)]
    return max(inside, key=lambda face: face.area, default=Found(box, 1.0, "manifest"))


def _numbered(number: int, faces: list[Found]) -> Found:
    if not 0 <= number < len(faces):
        raise Unusable("bad_choice", f"`face` is {number}, of {len(faces)} faces found (counted from 0, left to right)")
    return faces[number]


def _checked_box(box: tuple[int, ...], picture: np.ndarray) -> Box:
    x0, y0, x1, y1 = box
    height, width = picture.shape[:2]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        reason = f"`face` is the box {_spell((x0, y0, x1, y1))}, not inside the picture of {width} x {height} pixels"
        raise Unusable("bad_choice", reason)
    return x0, y0, x1, y1


def _centre_in(inner: Box, outer: Box) -> bool:
    x, y = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    return outer[0] <= x <= outer[2] and outer[1] <= y <= outer[3]


def _check_pose(points: np.ndarray, settings: FaceSettings) -> None:
    height, roll = face_height_px(points), roll_deg(points)
    if height < settings.min_face_px:
        least = settings.min_face_px
        raise Unusable("too_small", f"the face is {height:.0f} pixels high, {least} are needed; use a larger picture")
    if abs(roll) > UPRIGHT_DEG:
        raise Unusable("not_upright", f"the head is turned by {abs(roll):.0f} degrees; save the picture upright")


def _refused(refusal: Refusal) -> dict[str, object]:
    keys = ("box_px", "source_size_px", "face_box_px", "landmarks", "detector")
    return {"refusal": refusal.to_json()} | dict.fromkeys(keys) | {"faces": 0}


def _described(found: Portrait, box: Box) -> dict[str, object]:
    """crop.json. Pixels of the upright source, but `landmarks`: pixels of face.png."""
    return {
        "refusal": None,
        "box_px": list(box),
        "source_size_px": list(found.size),
        "face_box_px": list(bounds(found.points)),
        "landmarks": np.round(to_crop(found.points, box), 2).tolist(),
        "detector": found.detector,
        "faces": found.faces,
    }


def _overlay(picture: np.ndarray, regions: dict[str, np.ndarray], points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Face with translucent regions, landmarks and the face's box; `box` is ((x0, y0), (x1, y1))."""
    shown = picture.astype(np.float32)
    for name, mask in regions.items():
        share = 0.45 * mask.astype(np.float32)[..., None]
        shown = shown * (1 - share) + np.array(COLOURS[name], np.float32) * share
    canvas = np.ascontiguousarray(shown.round().astype(np.uint8))
    for x, y in points:
        cv2.circle(canvas, (round(x), round(y)), 1, (255, 255, 255), -1, cv2.LINE_AA)
    first, last = (tuple(int(value) for value in corner) for corner in box.round())
    return cv2.rectangle(canvas, first, last, (255, 220, 0), 2)


def _refused_picture(portrait: Path, settings: FaceSettings, limits: LimitSettings) -> np.ndarray:
    """What people need to see to choose: the whole portrait on grey with the numbered boxes of its faces."""
    paper = Image.new("RGB", (FACE_PX, FACE_PX), PAPER)
    try:
        picture = read_picture(portrait, limits)
    except Unusable:
        return np.asarray(paper)
    small = ImageOps.contain(Image.fromarray(picture), (FACE_PX, FACE_PX))
    pen, scale = ImageDraw.Draw(small), small.width / picture.shape[1]
    for number, face in enumerate(count_faces(find_faces(picture, settings.min_confidence))):
        corners = [value * scale for value in face.box]
        pen.rectangle(corners, outline=(255, 220, 0), width=2)
        pen.text((corners[0] + 4, corners[1] + 2), str(number), fill=(255, 220, 0), font_size=20)
    paper.paste(small, ((FACE_PX - small.width) // 2, (FACE_PX - small.height) // 2))
    return np.asarray(paper)


def _write_picture(path: Path, picture: np.ndarray) -> None:
    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def _write_masks(path: Path, masks: dict[str, np.ndarray]) -> None:
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **masks)


def _spell(box: Box) -> str:
    return ",".join(str(value) for value in box)
