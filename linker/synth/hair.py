"""Hair, ears and headwear of a drawn head: one layer in front that follows the face, one behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from linker.synth import drawing as d
from linker.synth.drawing import Array, Image, Points, vec
from linker.synth.geometry import Frame, outline
from linker.synth.skin import surface, tone
from linker.synth.traits import Traits

LONG = ("long", "wavy", "bob", "bangs")


@dataclass
class Layer:
    """Colours (H, W, 3) and alpha (H, W), not yet multiplied."""

    image: Image
    alpha: Image

    def paint(self, colour: Image, mask: Image) -> None:
        """Lay `colour` over the layer where `mask` is."""
        self.image = d.over(self.image, colour, np.where(self.alpha < 0.02, vec(mask > 0), mask))
        self.alpha = np.maximum(self.alpha, mask)


def shape(frame: Frame, right: list[tuple[float, float]], wobble: Array | None = None) -> Image:
    """Mask of a symmetric outline given by its right half; `wobble` (n,) moves its points in and out."""
    curve = d.spline(d.mirrored(vec(right)), 8)
    if wobble is not None:
        wave = np.interp(np.linspace(0, 1, len(curve)), np.linspace(0, 1, len(wobble)), wobble)
        curve = curve * (1 + wave[:, None].astype(np.float32))
    return d.polygon(frame.shape, frame.px(curve))


def loft(t: Traits) -> float:
    """How far the hair stands off the skull; headwear presses it down."""
    if t.headwear not in ("none", "band") and t.hair != "bald":
        return 0.03
    return {
        "afro": 0.20 + 0.12 * t.volume,
        "curly": 0.09 + 0.07 * t.volume,
        "quiff": 0.10 + 0.05 * t.volume,
        "buzz": 0.005,
        "balding": 0.01,
        "crop": 0.04,
    }.get(t.hair, 0.04 + 0.05 * t.volume)


def cap(t: Traits, frame: Frame, rng: np.random.Generator) -> Image:
    """Hair in front of the head: the scalp's outline minus the face's opening."""
    v, w = loft(t), t.temple_w
    side = {"long": 0.55, "wavy": 0.55, "bob": 0.30, "bangs": 0.34, "curly": 0.05, "afro": 0.06}.get(t.hair, -0.03)
    s = 1.0 if t.hair == "afro" else 0.4
    outer = [
        (0, -0.70 - v),
        (0.19, -0.658 - v * 0.94),
        (0.32 + v * 0.25, -0.54 - v * 0.66),
        (w + 0.02 + v * s, -0.34),
        (t.cheek_w + 0.012 + v * s * 0.8, -0.08),
        (t.cheek_w + v * s * 0.2, side),
        (t.cheek_w - 0.08, side + 0.012),
        (0, side + 0.012),
    ]
    if t.hair == "afro":
        outer = ball(t, v)
    bumps = {"curly": 0.03, "afro": 0.018, "crop": 0.022, "wavy": 0.02}.get(t.hair, 0)
    wobble = rng.uniform(-bumps, bumps, 72).astype(np.float32) if bumps else None
    hole = opening(t, side)
    return shape(frame, outer, wobble) * (1 - d.blur(d.polygon(frame.shape, frame.px(hole)), 0.004 * frame.face_px))


def ball(t: Traits, v: float) -> list[tuple[float, float]]:
    """The right half of a round mass of hair."""
    a = np.linspace(-np.pi / 2, np.pi * 0.30, 12)
    return [(float((t.cheek_w + 0.02 + v * 0.75) * np.cos(k)), float(-0.30 + (0.44 + v * 0.85) * np.sin(k))) for k in a]


def opening(t: Traits, side: float) -> Points:
    """The outline of the face within the hair; parted hair makes it lopsided."""
    w, top = t.cheek_w - 0.045, {"bangs": -0.265, "balding": -0.80, "afro": -0.44, "curly": -0.43}.get(t.hair, -0.47)
    if side > 0.2:
        w = w - 0.02
    temple = -0.30 if t.feminine > 0.5 else -0.33
    wide = 0.30 if t.hair == "balding" else 0.24
    right = [
        (0.0, top),
        (0.13, top + 0.008),
        (wide, top + 0.07),
        (w - 0.005, temple + 0.05),
        (w, -0.10),
        (w + (0.0 if side < 0.2 else 0.01), max(side, 0.12)),
        (w - 0.02, side + 0.35),
        (0, side + 0.45),
    ]
    curve = d.spline(d.mirrored(vec(right)), 8)
    if t.hair in ("side", "long", "wavy", "bob", "quiff"):
        above = np.clip((-0.28 - curve[:, 1]) / 0.2, 0, 1)
        curve[:, 1] += above * vec(0.55 * t.part) * curve[:, 0] * vec(0.6)
    if t.hair == "bangs":
        curve[:, 1] += np.where(curve[:, 1] < -0.2, 0.012 * np.sin(curve[:, 0] * 60), 0).astype(np.float32)
    return curve


def behind(t: Traits, frame: Frame, rng: np.random.Generator) -> Image:
    """Hair behind head and shoulders."""
    v, c = loft(t), t.cheek_w
    mask = np.zeros(frame.shape, np.float32)
    ends = {
        "long": 0.95 + 0.3 * t.volume,
        "wavy": 0.80 + 0.3 * t.volume,
        "bob": 0.36,
        "bangs": 0.42 + 0.6 * (t.part > 0),
        "curly": 0.34 if t.feminine > 0.5 else 0.14,
        "afro": 0.16,
    }
    if t.hair in ends:
        end, out = ends[t.hair], 0.05 + v * (1.0 if t.hair in ("afro", "curly") else 0.6)
        right = (
            ball(t, v)
            if t.hair == "afro"
            else [
                (0, -0.68 - v * 0.8),
                (0.25, -0.60 - v * 0.7),
                (c + out * 0.8, -0.35),
                (c + out, 0.0),
                (c + out, end * 0.5),
                (c + out * 0.8, end * 0.88),
                (c * 0.55, end),
                (0, end),
            ]
        )
        bumps = {"curly": 0.035, "afro": 0.018, "wavy": 0.028}.get(t.hair, 0.004)
        mask = shape(frame, right, rng.uniform(-bumps, bumps, 60).astype(np.float32))
    if t.hair == "bun":
        mask = d.polygon(frame.shape, frame.px(d.ellipse(0.04 * t.part, -0.78 - v, 0.15, 0.13)))
    return mask


def hair_colours(t: Traits, frame: Frame, rng: np.random.Generator, dark: float = 1.0) -> Image:
    """Colour of hair at every pixel: strands from the parting (or curls), a sheen where the crown is lit."""
    x, y = frame.grid()
    base = vec(t.material) * 0.86 if t.style == "sculpture" else vec(t.hair_colour)
    px, py = 0.13 * t.part, -0.80
    angle, radius = np.arctan2(x - px, y - py + 0.02), np.hypot(x - px, (y - py) * 0.8)
    bend = (
        0.022 * np.sin(radius * 24 + angle * 5) + 0.02 * d.noise(rng, frame.shape, 40)
        if t.hair == "wavy"
        else 0.03 * d.noise(rng, frame.shape, 40)
    )
    streak = d.strands(rng, angle + bend, radius, 46)
    if t.hair in ("curly", "afro"):
        streak = 1.1 * d.blur(d.noise(rng, frame.shape, 0.035 * frame.face_px, 2), 1) - 0.1
    streak = streak * (0.5 if t.style == "sculpture" else 1)
    side = np.clip(0.5 + (x * t.light_x - (y + 0.3) * -t.light_y * 1.0) * 0.75, 0, 1)
    sheen = np.exp(-(((radius - 0.30 - 0.03 * np.cos(angle * 3)) / 0.075) ** 2)) * (0.35 + 0.65 * side)
    if t.style == "cartoon":
        flat = 0.86 + 0.14 * d.smoothstep(0.42, 0.48, side) + 0.28 * d.smoothstep(0.45, 0.52, sheen + 0.12 * streak)
        return base * (flat * dark)[..., None] + 0.02
    level = (0.58 + 0.5 * side) * (1 + 0.34 * streak) * dark
    shine = 0.16 * sheen * (1 + 0.9 * streak) * (0.5 + base.mean())
    return base * level[..., None] + np.clip(shine, 0, 1)[..., None] * (0.5 + 0.5 * base) * dark


def ears(t: Traits, frame: Frame, back: Layer) -> None:
    """Both ears, with a rim and a dark inside; earrings hang from them."""
    f, skin = frame.face_px, vec(surface(t))
    for side in (-1.0, 1.0):
        c = t.cheek_w - 0.012
        points = vec(
            [
                (c, -0.13),
                (c + 0.045, -0.155),
                (c + 0.075, -0.11),
                (c + 0.062, -0.02),
                (c + 0.04, 0.06),
                (c + 0.005, 0.085),
                (c - 0.02, 0.04),
            ]
        ) * vec([side, 1])
        lit = 0.62 + 0.16 * side * t.light_x
        shade = tone(np.full((1, 1), lit, np.float32), t)[0, 0] * vec([1.0, 0.93, 0.92])
        back.paint(skin * shade, d.polygon(frame.shape, frame.px(d.spline(points))))
        inside = vec([(c + 0.015, -0.10), (c + 0.045, -0.115), (c + 0.048, -0.06), (c + 0.026, 0.0)]) * vec([side, 1])
        hollow = d.blur(d.polygon(frame.shape, frame.px(d.spline(inside))), 0.006 * f) * 0.5
        back.image = d.over(back.image, skin * shade * vec([0.62, 0.5, 0.5]), hollow)
        if t.earrings:
            ring = d.polygon(frame.shape, frame.px(d.ellipse(side * (c + 0.018), 0.115, 0.022, 0.026)))
            back.paint(vec([0.93, 0.78, 0.42]) if t.style != "sculpture" else skin * 0.9, ring)


def hat_outline(t: Traits) -> list[tuple[float, float]]:
    """Right half of the outline of hat, band, scarf or turban."""
    c = t.cheek_w
    # fmt: off
    return {
        "beanie": [(0, -0.90), (0.2, -0.86), (0.34, -0.70), (c + 0.035, -0.46), (c + 0.03, -0.33),
                 (0.2, -0.30), (0, -0.295)],
        "turban": [(0, -0.93), (0.22, -0.89), (0.40, -0.74), (c + 0.10, -0.50), (c + 0.03, -0.28),
                 (0.25, -0.36), (0, -0.41)],
        "cap": [(0, -0.83), (0.2, -0.79), (0.33, -0.66), (c + 0.01, -0.42), (c - 0.01, -0.32),
              (0.2, -0.35), (0, -0.36)],
        "brim": [(0, -0.92), (0.16, -0.94), (0.29, -0.86), (0.35, -0.46), (0.2, -0.40), (0, -0.39)],
        "band": [(0, -0.60), (0.2, -0.575), (c - 0.02, -0.40), (c + 0.02, -0.30), (c, -0.25),
                 (0.22, -0.46), (0, -0.51)],
        "hijab": [(0, -0.80), (0.25, -0.74), (c + 0.06, -0.45), (c + 0.10, -0.05), (c + 0.08, 0.3), (0.40, 0.62),
                  (0.46, 0.95), (0, 1.05)],
    }[t.headwear]
    # fmt: on


def veiled_face(t: Traits) -> list[tuple[float, float]]:
    """Right half of the part of the face that a scarf leaves free."""
    c = t.cheek_w
    upper = [(0, -0.43), (0.2, -0.385), (c - 0.055, -0.22), (c - 0.03, 0.02), (c - 0.06, 0.2)]
    return [*upper, (t.jaw_w - 0.01, 0.34), (0.13, 0.478), (0, 0.497)]


def headwear(t: Traits, frame: Frame, rng: np.random.Generator, front: Layer) -> None:
    """Hat, scarf or turban over the hair."""
    if t.headwear == "none":
        return
    mask = shape(frame, hat_outline(t))
    if t.headwear == "hijab":
        mask = mask * (1 - shape(frame, veiled_face(t)))
    x, y = frame.grid()
    front.paint(fabric(t, frame, rng, x, y), mask)
    if t.headwear in ("brim", "cap"):
        visor(t, frame, front, fabric(t, frame, rng, x, y) * 0.9, mask)


def visor(t: Traits, frame: Frame, front: Layer, cloth: Image, crown: Image) -> None:
    """Brim or peak of a hat, the shadow under it and the band above."""
    round_, f = t.headwear == "brim", frame.face_px
    brim = d.ellipse(0, -0.385, 0.62, 0.075) if round_ else d.ellipse(0.0, -0.335, 0.30, 0.06)
    edge = d.polygon(frame.shape, frame.px(brim))
    shadow = d.blur(d.polygon(frame.shape, frame.px(brim + vec([0, 0.045]))), 0.02 * f) * 0.7
    front.image = d.over(front.image, front.image * 0.55, shadow)
    front.paint(cloth, edge)
    if round_:
        band = d.polygon(frame.shape, frame.px(brim * vec([0.57, 1]) - vec([0, 0.08])))
        band = band * d.smoothstep(-0.50, -0.49, frame.grid()[1]) * crown * (1 - edge)
        front.paint(np.broadcast_to(vec(t.cloth) * 0.4, front.image.shape), band)


def fabric(t: Traits, frame: Frame, rng: np.random.Generator, x: Array, y: Array) -> Image:
    """Cloth of the headwear: knit, wraps or folds, lit like the rest."""
    colour = vec(t.material) if t.style == "sculpture" else vec(t.cloth_two)
    side = np.clip(0.62 + 0.5 * (x * t.light_x + (y + 0.4) * t.light_y), 0.25, 1.1)
    if t.headwear == "beanie":
        pattern = 0.10 * np.sin(np.arctan2(x, y + 1.6) * 150) * (0.6 if t.style == "cartoon" else 1)
        pattern = pattern - 0.16 * np.exp(-(((y + 0.42 - 0.1 * x**2) / 0.012) ** 2))
    elif t.headwear in ("turban", "hijab"):
        sweep = np.sin(
            (y * 1.0 + 0.8 * np.abs(x) * (1 if t.headwear == "turban" else -0.5)) * 34 + 2 * d.noise(rng, x.shape, 90)
        )
        pattern = 0.12 * (d.smoothstep(-0.2, 0.3, sweep) - 0.5 if t.style == "cartoon" else sweep)
    else:
        pattern = 0.05 * d.noise(rng, x.shape, 60, 2)
    level = np.round(side * 4) / 4 if t.style == "cartoon" else side
    return colour * ((0.35 + 0.75 * level) * (1 + pattern))[..., None]


def side_of_head(t: Traits, frame: Frame) -> tuple[Image, Image]:
    """Temples and jaw behind the face, seen when it turns away: hair above, skin in shadow below."""
    skin = vec(surface(t)) * tone(np.full((1, 1), 0.42, np.float32), t)[0, 0]
    scalp = vec(t.hair_colour) * 0.55 if t.hair not in ("bald", "balding") and t.style != "sculpture" else skin
    above = 1 - d.smoothstep(-0.12, -0.02, frame.grid()[1])
    mask = d.polygon(frame.shape, frame.px(outline(t) * vec([0.985, 0.96])))
    return d.over(np.broadcast_to(skin, (*frame.shape, 3)), scalp, above), mask


def bake_back(t: Traits, frame: Frame, rng: np.random.Generator) -> Layer:
    """What lies behind the face and turns with the head: back hair and ears."""
    back = Layer(np.zeros((*frame.shape, 3), np.float32), np.zeros(frame.shape, np.float32))
    hidden = t.headwear == "hijab"
    mask = behind(t, frame, rng)
    if t.headwear not in ("none", "band"):
        mask = mask * d.smoothstep(-0.5, -0.4, frame.grid()[1])
    back.paint(*side_of_head(t, frame))
    if not hidden:
        back.paint(hair_colours(t, frame, rng, 0.66), mask)
        if t.hair not in LONG:
            ears(t, frame, back)
    return back


def add_front(t: Traits, frame: Frame, rng: np.random.Generator, front: Layer) -> None:
    """Hair and headwear over the baked face, with the shadow the hair throws on it."""
    if t.headwear != "hijab" and t.hair != "bald":
        mask = cap(t, frame, rng) if t.hair != "buzz" else d.blur(cap(t, frame, rng), 0.01 * frame.face_px) * 0.72
        if t.headwear not in ("none", "band"):
            mask = mask * d.smoothstep(-0.5, -0.4, frame.grid()[1])
        shadow = np.roll(d.blur(mask, 0.022 * frame.face_px), round(0.022 * frame.face_px), 0)
        front.image = d.over(front.image, front.image * vec([0.62, 0.52, 0.52]), np.clip(shadow, 0, 1) * 0.55)
        front.paint(hair_colours(t, frame, rng), mask)
    headwear(t, frame, rng, front)


def ink(t: Traits, frame: Frame, layer: Layer) -> None:
    """The cartoon's outline along the edge of a layer."""
    edge = np.clip(d.blur(layer.alpha, 0.9) * (1 - d.blur(layer.alpha, 0.9)) * 4, 0, 1) * (layer.alpha > 0.3)
    layer.image = d.over(layer.image, vec([0.16, 0.11, 0.12]), edge * 0.8)


def head_outline(t: Traits) -> Points:
    """The whole head with its hair, for masks: coarse and symmetric (n, 2) head coordinates."""
    v = max(loft(t), 0.2 if t.headwear in ("beanie", "turban", "brim", "cap") else 0) if t.hair != "bald" else 0.0
    curve = outline(t, 0.03)
    curve = np.where(curve[:, 1:] < -0.1, curve * vec([1 + v * 0.5, 1 + v * 1.1]), curve)
    return curve.astype(np.float32)
