"""Who a drawn person is: every random choice of a portrait, made once from its seed (lengths in face heights)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

STYLES = ("cartoon", "shaded", "painting", "sculpture", "photo")
Colour = tuple[float, float, float]
SKINS = (
    "ffe3d0",
    "fbd5bc",
    "f3c7a5",
    "eab894",
    "e0a980",
    "d29a6c",
    "c38a5c",
    "ae7548",
    "94603a",
    "7b4c2e",
    "613a24",
    "4c2d1d",
)
HAIRS = (
    "17130f",
    "241a14",
    "3a2518",
    "4f3220",
    "6b4527",
    "8d6237",
    "b98f55",
    "dcc08a",
    "8a3f1e",
    "a85a2a",
    "8f8c88",
    "c9c6c1",
    "e8e6e2",
)
FANCY_HAIRS = ("3f5fa8", "b0447c", "3f8f7a", "7a4fa3")
IRISES = ("3b2415", "5a3a1e", "7a5528", "6f7a3a", "4f7a55", "4a7fa5", "6b93b8", "7d8790")
CLOTHS = (
    "22304f",
    "7b1f2b",
    "2f5d50",
    "d8d3c5",
    "33363d",
    "b5583a",
    "5b4a7d",
    "d7a53c",
    "8fb0c9",
    "efeae2",
    "6d7f4a",
    "c77a92",
    "1d1d22",
    "3f7fa6",
    "94724f",
)
LIPS = ("c26b66", "b5545a", "a84a50", "c9786d")


@dataclass(frozen=True)
class Traits:
    """One person, one light, one framing."""

    style: str
    feminine: float  # 0..1
    age: float  # 0 young .. 1 old
    skin: Colour
    hair_colour: Colour
    iris: Colour
    lip: Colour
    cloth: Colour
    cloth_two: Colour
    ground: Colour
    ground_two: Colour
    cheek_w: float
    jaw_w: float
    chin_w: float
    temple_w: float
    eye_x: float
    eye_y: float
    eye_w: float
    eye_h: float
    eye_tilt: float
    iris_r: float
    nose_w: float
    nose_y: float
    nose_size: float
    mouth_y: float
    mouth_w: float
    lip_up: float
    lip_down: float
    smile: float  # how high the resting mouth's corners are
    brow_y: float
    brow_thick: float
    brow_arch: float
    hair: str
    headwear: str
    beard: str
    glasses: str
    clothes: str
    backdrop: str
    earrings: bool
    freckles: bool
    blush: float
    makeup: float
    volume: float
    part: float  # where the hair is parted, -1..1
    light_x: float
    light_y: float
    warmth: float
    material: Colour
    face_h: float  # share of the frame
    centre_x: float
    centre_y: float


def hex_colour(text: str) -> Colour:
    """'ff8000' as three numbers 0..1."""
    return (int(text[0:2], 16) / 255, int(text[2:4], 16) / 255, int(text[4:6], 16) / 255)


def draw_traits(rng: np.random.Generator, style: str) -> Traits:
    """Choose a person. Choices that belong together (beards, hats, hair) are drawn together."""
    feminine = float(np.clip(rng.choice([0.1, 0.9]) + rng.normal(0, 0.15), 0, 1))
    age = float(rng.beta(1.3, 1.7))
    return Traits(
        style=style,
        feminine=feminine,
        age=age,
        **_colours(rng, style, age, feminine),
        **_face(rng, style, feminine),
        **_things(rng, feminine, age),
        **_scene(rng, style),
    )


def _pick(rng: np.random.Generator, colours: tuple[str, ...], spread: float = 0.03) -> Colour:
    base = np.array(hex_colour(colours[rng.integers(len(colours))]))
    r, g, b = np.clip(base + rng.normal(0, spread) + rng.normal(0, spread / 2, 3), 0.02, 0.98)
    return (float(r), float(g), float(b))


def _colours(rng: np.random.Generator, style: str, age: float, feminine: float) -> dict[str, Any]:
    skin = _pick(rng, SKINS, 0.02)
    dark_hair = HAIRS[:4] if sum(skin) < 1.75 else HAIRS[:10]
    hairs = HAIRS[10:] if age > 0.72 else FANCY_HAIRS if style == "cartoon" and rng.random() < 0.12 else dark_hair
    makeup = float(rng.uniform(0.2, 1) * (rng.random() < feminine))
    natural = np.array(skin) * (0.84, 0.60, 0.58) + np.array((0.12, 0.03, 0.04)) * (1 - max(skin))
    lip = natural * (1 - 0.6 * makeup) + np.array(_pick(rng, LIPS, 0.03)) * 0.6 * makeup * (0.6 + 0.4 * max(skin))
    return {
        "skin": skin,
        "hair_colour": _pick(rng, hairs, 0.02),
        "lip": tuple(map(float, lip)),
        "makeup": makeup,
        "iris": _pick(rng, IRISES[:3] if sum(skin) < 1.75 else IRISES, 0.02),
        "cloth": _pick(rng, CLOTHS),
        "cloth_two": _pick(rng, CLOTHS),
        "material": _pick(rng, ("e6e1d8", "d9d4cc", "c9a27e", "8a6a4a", "a8adb0", "b9674a", "6f7f74"), 0.02),
    }


def _face(rng: np.random.Generator, style: str, feminine: float) -> dict[str, Any]:
    big = {"cartoon": 1.28, "shaded": 1.16}.get(style, 1.0)
    u = rng.uniform
    eye_w = u(0.152, 0.172) * big
    return {
        "cheek_w": u(0.375, 0.425),
        "temple_w": u(0.36, 0.395),
        "jaw_w": u(0.275, 0.345) - 0.03 * feminine,
        "chin_w": u(0.10, 0.16) - 0.02 * feminine,
        "eye_x": u(0.165, 0.182) + 0.014 * (big > 1.2),
        "eye_y": u(-0.115, -0.085),
        "eye_w": eye_w,
        "eye_h": eye_w * u(0.40, 0.50) * (1.12 if big > 1.1 else 1),
        "eye_tilt": u(-0.10, 0.14),
        "iris_r": eye_w * u(0.235, 0.255),
        "nose_w": u(0.066, 0.1) - 0.01 * feminine,
        "nose_y": u(0.125, 0.155),
        "nose_size": u(0.7, 1.2),
        "mouth_y": u(0.275, 0.305),
        "mouth_w": u(0.135, 0.168),
        "lip_up": u(0.022, 0.038) + 0.006 * feminine,
        "lip_down": u(0.034, 0.054) + 0.008 * feminine,
        "smile": u(0.010, 0.030),
        "brow_y": u(-0.225, -0.195) - 0.022 * (big - 1) / 0.28,
        "brow_thick": u(0.018, 0.036) - 0.009 * feminine,
        "brow_arch": u(0.2, 1.0),
    }


def _things(rng: np.random.Generator, feminine: float, age: float) -> dict[str, Any]:
    woman = feminine > 0.5
    hair = str(
        rng.choice(
            ("long", "wavy", "bob", "bun", "curly", "bangs", "short", "afro")
            if woman
            else ("short", "side", "quiff", "crop", "buzz", "curly", "bald", "long", "afro")
        )
    )
    if not woman and age > 0.6 and rng.random() < 0.5:
        hair = str(rng.choice(("balding", "bald")))
    headwear = (
        str(rng.choice(("hijab", "beanie", "brim", "band", "turban") if woman else ("beanie", "brim", "turban", "cap")))
        if rng.random() < 0.22
        else "none"
    )
    beards = ("none", "none", "none", "stubble", "full", "short", "goatee", "moustache", "long")
    return {
        "hair": hair,
        "headwear": headwear,
        "beard": "none" if woman else str(rng.choice(beards)),
        "glasses": str(rng.choice(("round", "square", "thin"))) if rng.random() < 0.26 else "none",
        "clothes": str(rng.choice(("crew", "vneck", "collar", "suit", "turtle", "hoodie", "scarf", "stripes"))),
        "earrings": bool(woman and rng.random() < 0.4),
        "freckles": bool(rng.random() < 0.1),
        "blush": float(rng.uniform(0.2, 1)),
        "volume": float(rng.uniform(0, 1)),
        "part": float(rng.uniform(-1, 1)),
    }


def _scene(rng: np.random.Generator, style: str) -> dict[str, Any]:
    backdrops = {
        "cartoon": ("plain", "gradient", "shapes", "rays"),
        "sculpture": ("gradient", "textured", "plain"),
        "painting": ("textured", "gradient", "outdoor", "indoor"),
    }.get(style, ("plain", "gradient", "bokeh", "textured", "indoor", "outdoor"))
    grounds = (
        "dfe6ea",
        "c9d6c4",
        "e9d9c3",
        "49566b",
        "2c2f38",
        "7c8fa3",
        "b8a9c6",
        "d9b8a8",
        "8ea88f",
        "f2efe8",
        "5a4a42",
        "3d5a5c",
        "e3c565",
        "a6c4dd",
    )
    return {
        "ground": _pick(rng, grounds),
        "ground_two": _pick(rng, grounds),
        "backdrop": str(rng.choice(backdrops)),
        "light_x": float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.9)),
        "light_y": float(rng.uniform(-0.8, -0.25)),
        "warmth": float(rng.uniform(-1, 1)),
        "face_h": float(rng.uniform(0.42, 0.58)),
        "centre_x": float(rng.normal(0.5, 0.02)),
        "centre_y": float(rng.uniform(0.46, 0.53)),
    }
