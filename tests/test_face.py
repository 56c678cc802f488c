"""crop_face and extract_masks on a real face that a wheel carries, and on pictures that must be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from linker import landmarks as lm
from linker.config import FACE_PX, FaceSettings, LimitSettings
from linker.face import count_faces, crop_face, examine_portrait, extract_masks
from linker.face_models import Found, overlap
from linker.records import read_json

SETTINGS, LIMITS = FaceSettings(), LimitSettings()
EYES = (190, 95, 265, 130)  # where the astronaut's eyes are in the 512 x 512 picture


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    """NASA's public-domain portrait, (512, 512, 3); one face at about (224, 110)."""
    return data.astronaut()


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    return path


def crop(portrait: Path, choice: str = "", settings: FaceSettings = SETTINGS) -> dict:
    folder = portrait.parent
    crop_face(
        portrait=portrait, face=folder / "face.png", crop=folder / "crop.json",
        choice=choice, settings=settings, limits=LIMITS,
    )  # fmt: skip
    return read_json(folder / "crop.json")


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    extract_masks(
        face=folder / "face.png", crop=folder / "crop.json", masks=folder / "masks.npz",
        debug=folder / "debug.png", settings=SETTINGS,
    )  # fmt: skip
    with np.load(folder / "masks.npz") as stored:
        return dict(stored)


def kind(portrait: Path, choice: str = "", settings: FaceSettings = SETTINGS) -> str:
    """The refusal's kind, which the plan and the step must agree on; the step's outputs must exist all the same."""
    planned = examine_portrait(portrait, choice, settings, LIMITS)
    facts = crop(portrait, choice, settings)
    assert facts["refusal"] == (planned.to_json() if planned else None)
    assert Image.open(portrait.parent / "face.png").size == (FACE_PX, FACE_PX)
    return facts["refusal"]["kind"] if facts["refusal"] else ""


def test_face_is_found_and_cut(tmp_path: Path, astronaut: np.ndarray) -> None:
    facts = crop(save(tmp_path / "a.png", astronaut))
    x0, y0, x1, y1 = facts["box_px"]
    assert facts["refusal"] is None
    assert facts["faces"] == 1
    assert facts["source_size_px"] == [512, 512]
    assert x1 - x0 == y1 - y0
    points = np.array(facts["landmarks"])
    assert points.shape == (478, 2)
    source = lm.to_source(points, (x0, y0, x1, y1))
    eyes = source[list(lm.LEFT_EYE + lm.RIGHT_EYE)]
    assert (eyes >= EYES[:2]).all()
    assert (eyes <= EYES[2:]).all()
    assert 0.38 < lm.face_height_px(points) / FACE_PX < 0.62


def test_masks_and_debug_picture(tmp_path: Path, astronaut: np.ndarray) -> None:
    facts = crop(save(tmp_path / "a.png", astronaut))
    masks = masks_of(tmp_path)
    assert {name: (mask.shape, mask.dtype) for name, mask in masks.items()} == dict.fromkeys(
        ("head", "mouth", "eyes", "alpha"), ((FACE_PX, FACE_PX), np.dtype("float16"))
    )
    total = sum(masks[name].astype(np.float64) for name in ("head", "mouth", "eyes"))
    assert total.max() <= 1
    points = np.array(facts["landmarks"]).round().astype(int)
    for name, index in (("mouth", lm.LIPS), ("eyes", lm.LEFT_EYE), ("eyes", lm.RIGHT_BROW)):
        x, y = points[list(index)].T
        assert masks[name][y, x].mean() > 0.9
    assert masks["alpha"][FACE_PX // 2, FACE_PX // 2] > 0.9
    assert total[points[lm.FOREHEAD][1] - 30, points[lm.FOREHEAD][0]] > 0.8  # hair
    debug, face = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("debug", "face"))
    assert debug.shape == face.shape
    assert (np.abs(debug - face).max(-1) > 10).mean() > 0.1


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_rotated_portrait_gives_the_same_crop(tmp_path: Path, astronaut: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = np.rot90(astronaut, {3: 2, 6: 1, 8: 3}[orientation])
    facts = crop(save(tmp_path / "a.png", turned, exif=exif))
    (tmp_path / "b").mkdir()
    upright = crop(save(tmp_path / "b" / "b.png", astronaut))
    assert facts.pop("source_sha256") != upright.pop("source_sha256")
    assert facts == upright


@pytest.mark.parametrize("change", ["grey", "alpha", "wide", "high", "large", "tilted"])
def test_portraits_of_many_shapes(tmp_path: Path, astronaut: np.ndarray, change: str) -> None:
    image = Image.fromarray(astronaut)
    changed = {
        "grey": lambda: image.convert("L"),
        "alpha": lambda: image.convert("RGBA"),
        "wide": lambda: image.crop((0, 0, 512, 260)),
        "high": lambda: image.crop((120, 0, 330, 512)),
        "large": lambda: image.resize((2000, 2000)),
        "tilted": lambda: image.rotate(25, resample=Image.Resampling.BICUBIC),
    }[change]()
    changed.save(tmp_path / "a.png", compress_level=1)
    assert kind(tmp_path / "a.png") == ""


def test_two_faces_must_be_chosen(tmp_path: Path, astronaut: np.ndarray) -> None:
    portrait = save(tmp_path / "a.png", np.concatenate([astronaut, astronaut], 1))
    refusal = crop(portrait)["refusal"]
    assert refusal["kind"] == "several_faces"
    assert refusal["step"] == "crop_face"
    assert "0 = " in refusal["reason"]
    assert "1 = " in refusal["reason"]
    assert "`face`" in refusal["reason"]
    assert not masks_of(tmp_path)["head"].any()
    left, right, boxed = (crop(portrait, choice) for choice in ("0", "1", "640,20,860,220"))
    assert left["faces"] == 2
    assert left["face_box_px"][0] < 256
    assert right["face_box_px"][0] > 512
    assert overlap(tuple(boxed["face_box_px"]), tuple(right["face_box_px"])) > 0.8


def test_a_dominant_face_is_taken(tmp_path: Path, astronaut: np.ndarray) -> None:
    small = np.asarray(Image.fromarray(astronaut).resize((220, 220)))
    scene = np.full((512, 760, 3), 128, np.uint8)
    scene[:, :512], scene[:220, 530:750] = astronaut, small
    facts = crop(save(tmp_path / "a.png", scene))
    assert facts["refusal"] is None
    assert facts["face_box_px"][2] < 512


@pytest.mark.parametrize("choice", ["2", "-1", "left", "1,2,3", "0,0,9999,10", "50,50,10,10", "nan,0,10,10", "1.5"])
def test_bad_choices(tmp_path: Path, astronaut: np.ndarray, choice: str) -> None:
    assert kind(save(tmp_path / "a.png", astronaut), choice) == "bad_choice"


def test_refusals_by_kind(tmp_path: Path, astronaut: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    (tmp_path / "text.png").write_text("hello")
    whole = save(tmp_path / "whole.png", astronaut)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:100_000])
    assert kind(tmp_path / "nowhere.png") == "missing"
    assert kind(tmp_path / "text.png") == "not_an_image"
    assert kind(tmp_path / "cut.png") == "not_an_image"
    assert kind(save(tmp_path / "noise.png", noise)) == "no_face"
    assert kind(save(tmp_path / "blank.png", np.full((300, 300), 255, np.uint8))) == "no_face"
    assert kind(save(tmp_path / "down.png", np.rot90(astronaut, 2))) == "not_upright"
    assert kind(save(tmp_path / "tiny.png", astronaut[:20, :20])) == "too_small"
    assert kind(whole, settings=FaceSettings(min_face_px=400)) == "too_small"


def test_refused_portraits_still_have_masks_and_a_picture(tmp_path: Path) -> None:
    crop(save(tmp_path / "a.png", np.full((200, 100), 255, np.uint8)))
    assert all(not mask.any() for mask in masks_of(tmp_path).values())
    assert (np.asarray(Image.open(tmp_path / "debug.png")) == np.asarray(Image.open(tmp_path / "face.png"))).all()


def test_only_certain_boxes_count_as_further_faces() -> None:
    best, sure, toy = Found((50, 0, 60, 10), 0.9, "a"), Found((0, 0, 9, 9), 0.8, "a"), Found((80, 0, 90, 10), 0.65, "a")
    assert count_faces([best, sure, toy]) == [sure, best]
    assert count_faces([toy]) == [toy]


def test_crop_is_written_the_same_twice(tmp_path: Path, astronaut: np.ndarray) -> None:
    portrait = save(tmp_path / "a.png", astronaut)
    first = (json.dumps(crop(portrait)), (tmp_path / "face.png").read_bytes())
    assert first == (json.dumps(crop(portrait)), (tmp_path / "face.png").read_bytes())


CLOSING = """
from mediapipe.python.solution_base import SolutionBase
from linker.curate.faces import Follower
from linker.curate.hands import HandFinder

close = SolutionBase.close
SolutionBase.close = lambda solution: (print(type(solution).__name__), close(solution))
for made in Follower(), HandFinder():
    made.close()
print("left open")
left = HandFinder()
"""


def test_every_network_of_mediapipe_is_closed_once() -> None:
    """Those that are left open when Python ends, by it."""
    done = subprocess.run([sys.executable, "-c", CLOSING], capture_output=True, text=True, check=True)
    closed, _, at_exit = done.stdout.partition("left open")
    assert closed.split() == ["FaceMesh", "Hands", "FaceDetection"]
    assert sorted(at_exit.split()) == ["FaceDetection", "Hands"]
    assert "Exception" not in done.stderr
