"""What stands still behind a drawn head: the background, and the neck, shoulders and clothes."""

from __future__ import annotations

import cv2
import numpy as np

from linker.synth import drawing as d
from linker.synth.drawing import Array, Image, Points, vec
from linker.synth.geometry import Frame
from linker.synth.hair import Layer, shape
from linker.synth.skin import surface, tone
from linker.synth.traits import Traits


def background(t: Traits, frame: Frame, rng: np.random.Generator) -> Image:
    """The whole background (H, W, 3), drawn at the frame's own size."""
    one, two = vec(t.ground), vec(t.ground_two)
    if t.style == "sculpture":
        one, two = one.mean() * 0.5 + 0.1 * one, two.mean() * 0.4 + 0.1 * two
    x, y = np.meshgrid(
        np.linspace(-1, 1, frame.size, dtype=np.float32), np.linspace(-1, 1, frame.size, dtype=np.float32)
    )
    image = np.broadcast_to(vec(one), (*frame.shape, 3)).copy()
    image = image * (1 - 0.16 * np.hypot(x - 0.4 * t.light_x, y - 0.3 * t.light_y) ** 2)[..., None]
    painters = {
        "gradient": gradient,
        "bokeh": bokeh,
        "textured": textured,
        "indoor": indoor,
        "outdoor": outdoor,
        "shapes": shapes,
        "rays": rays,
    }
    if t.backdrop in painters:
        image = painters[t.backdrop](image, one, two, rng, x, y)
    return np.clip(image, 0, 1)


def gradient(image: Image, one: Array, two: Array, rng: np.random.Generator, x: Array, y: Array) -> Image:
    """One colour turning into another along a slope."""
    slope = rng.uniform(-0.8, 0.8)
    return d.over(image, two, d.smoothstep(-1.2, 1.3, y + slope * x) * 0.8)


def bokeh(image: Image, one: Array, two: Array, rng: np.random.Generator, x: Array, y: Array) -> Image:
    """Lights out of focus."""
    size = len(x)
    image = gradient(image * 0.8, one, two * 0.6, rng, x, y)
    for _ in range(rng.integers(10, 26)):
        colour = np.clip(np.where(rng.random() < 0.5, two, one) * rng.uniform(0.9, 1.6), 0, 1).astype(np.float32)
        disc = d.polygon(x.shape, d.ellipse(*rng.uniform(0, size, 2), *[size * rng.uniform(0.02, 0.08)] * 2))
        image = d.over(image, colour, d.blur(disc, size * 0.007) * rng.uniform(0.2, 0.6))
    return d.blur(image, size * 0.004)


def textured(image: Image, one: Array, two: Array, rng: np.random.Generator, x: Array, y: Array) -> Image:
    """A mottled studio cloth."""
    size = len(x)
    cloud = d.noise(rng, x.shape, size * 0.3, 4)
    image = d.over(image, two * 0.5 + one * 0.5, np.clip(0.45 + 0.5 * cloud, 0, 1))
    return image * (1 + 0.05 * d.noise(rng, x.shape, size * 0.02, 2))[..., None]


def indoor(image: Image, one: Array, two: Array, rng: np.random.Generator, x: Array, y: Array) -> Image:
    """A room out of focus: wall, window or shelf, furniture."""
    size = len(x)
    left = rng.uniform(-0.9, 0.2)
    window = vec((x > left) & (x < left + 0.6) & (y > -0.9) & (y < 0.0))
    image = d.over(image, vec([0.95, 0.95, 0.90]), window * 0.75)
    for _ in range(rng.integers(5, 12)):
        cx, cy, w, h = rng.uniform(-1, 1), rng.uniform(-0.4, 1), rng.uniform(0.05, 0.3), rng.uniform(0.1, 0.4)
        box = vec((np.abs(x - cx) < w) & (np.abs(y - cy) < h))
        image = d.over(image, np.clip(two * rng.uniform(0.4, 1.2) + rng.normal(0, 0.06, 3), 0, 1), box * 0.6)
    return d.blur(image, size * rng.uniform(0.02, 0.04))


def outdoor(image: Image, one: Array, two: Array, rng: np.random.Generator, x: Array, y: Array) -> Image:
    """Sky, hills and trees out of focus."""
    size = len(x)
    sky = vec([0.62, 0.76, 0.90]) * rng.uniform(0.8, 1.1) + vec([0.2, 0.05, -0.1]) * rng.uniform(0, 1)
    image = d.over(np.broadcast_to(sky, image.shape), vec([0.95, 0.93, 0.88]), d.smoothstep(-0.9, 0.6, y) * 0.6)
    for k, green in enumerate(((0.55, 0.62, 0.60), (0.42, 0.54, 0.38), (0.30, 0.42, 0.24))):
        edge = -0.15 + 0.32 * k + 0.22 * np.interp(x[0], np.linspace(-1, 1, 9), rng.uniform(-1, 1, 9))
        image = d.over(
            image, vec(green) * rng.uniform(0.85, 1.1), d.smoothstep(-0.03, 0.03, y - edge[None, :].astype(np.float32))
        )
    image = image * (1 + 0.10 * d.noise(rng, x.shape, size * 0.06, 2) * d.smoothstep(-0.2, 0.3, y))[..., None]
    return d.blur(image, size * rng.uniform(0.012, 0.03))


def shapes(image: Image, one: Array, two: Array, rng: np.random.Generator, x: Array, y: Array) -> Image:
    """Flat discs and a horizon, as in a poster."""
    size = len(x)
    for _ in range(rng.integers(2, 5)):
        (cx, cy), radius = rng.uniform(0.05, 0.95, 2) * size, size * rng.uniform(0.12, 0.42)
        disc = d.ellipse(cx, cy, radius, radius, 64)
        image = d.over(image, two * rng.uniform(0.85, 1.1), d.polygon(x.shape, disc) * rng.uniform(0.35, 0.8))
    return image


def rays(image: Image, one: Array, two: Array, rng: np.random.Generator, x: Array, y: Array) -> Image:
    """A sunburst behind the head."""
    wave = np.sin(np.arctan2(y + 0.1, x) * rng.integers(8, 15) + rng.uniform(0, 6))
    return d.over(image, two, d.smoothstep(-0.08, 0.08, wave) * 0.55)


def body(t: Traits, frame: Frame, rng: np.random.Generator) -> Layer:
    """Neck, shoulders and clothes as one layer."""
    layer = Layer(np.zeros((*frame.shape, 3), np.float32), np.zeros(frame.shape, np.float32))
    x, y = frame.grid()
    neck = 0.235 - 0.045 * t.feminine
    layer.paint(neck_skin(t, frame, x, y, neck), shape(frame, neck_outline(neck)))
    garments(t, frame, rng, layer, neck, x, y)
    return layer


def neck_outline(neck: float) -> list[tuple[float, float]]:
    """The skin that may show: neck and upper chest."""
    return [
        (0, 0.0),
        (neck, 0.05),
        (neck - 0.005, 0.35),
        (neck + 0.01, 0.56),
        (neck + 0.09, 0.66),
        (0.36, 0.74),
        (0.42, 1.3),
        (0, 1.4),
    ]


def neck_skin(t: Traits, frame: Frame, x: Array, y: Array, neck: float) -> Image:
    """A lit cylinder with the chin's shadow, two tendons and the collar bones."""
    lit = 0.55 + 0.38 * np.clip(x / neck, -1, 1) * t.light_x - 0.25 * np.clip(np.abs(x) / neck - 0.6, 0, 0.5)
    chin = np.exp(-(((x + 0.10 * t.light_x) / 0.34) ** 2) - ((y - 0.42) / 0.15) ** 2)
    lit = lit - 0.55 * chin * (0.7 if t.style == "cartoon" else 1) + 0.1 * d.smoothstep(0.6, 0.8, y)
    tendon = np.exp(-(((np.abs(x) - 0.13 + 0.25 * (y - 0.5)) / 0.02) ** 2)) * d.smoothstep(0.5, 0.6, y)
    bone = np.exp(-(((y - 0.76 + 0.12 * np.abs(x)) / 0.018) ** 2)) * d.smoothstep(0.04, 0.1, np.abs(x))
    if t.style != "cartoon":
        lit = lit - 0.06 * tendon + 0.07 * bone
    return vec(surface(t)) * tone(np.clip(lit, 0, 1).astype(np.float32), t)


def torso(t: Traits, frame: Frame, raise_y: float = 0.0) -> Image:
    """Mask of the clothed shoulders."""
    broad = 0.86 - 0.16 * t.feminine
    return shape(
        frame,
        [
            (0, 0.5 + raise_y),
            (0.2, 0.56 + raise_y),
            (0.34, 0.635),
            (broad * 0.75, 0.75),
            (broad, 0.92),
            (broad + 0.1, 1.3),
            (broad + 0.12, 2.2),
            (0, 2.3),
        ],
    )


def cloth(t: Traits, frame: Frame, rng: np.random.Generator, colour: Array, x: Array, y: Array) -> Image:
    """Cloth lit from the side, with soft folds."""
    if t.style == "sculpture":
        colour = vec(t.material) * 0.88
    side = np.clip(0.66 + 0.36 * x * t.light_x - 0.22 * (y - 0.8), 0.2, 1.1)
    stretched = cv2.resize(d.noise(rng, (frame.size, frame.size // 2), 0.13 * frame.face_px, 2), frame.shape[::-1])
    if t.style == "cartoon":
        return colour * (0.80 + 0.2 * d.smoothstep(0.50, 0.53, side + 0.05 * stretched))[..., None]
    weave = 0.03 * d.noise(rng, frame.shape, 2) if t.style == "photo" else 0
    return colour * (0.25 + 0.8 * side + 0.11 * stretched + weave)[..., None]


def garments(t: Traits, frame: Frame, rng: np.random.Generator, layer: Layer, neck: float, x: Array, y: Array) -> None:
    """Dress the body; every kind is a torso with its own opening and trimmings."""
    main = cloth(t, frame, rng, vec(t.cloth), x, y)
    other = cloth(t, frame, rng, vec(t.cloth_two), x, y)
    kind = t.clothes
    if kind == "stripes":
        main = d.over(main, other, d.smoothstep(-0.25, 0.25, np.sin((y - 0.06 * x**2) * 62)))
    hole = {
        "vneck": v_opening(neck + 0.02, 0.98),
        "collar": v_opening(neck - 0.02, 0.84),
        "suit": v_opening(neck - 0.02, 1.45),
    }.get(kind, d.ellipse(0, 0.57, neck + 0.065, 0.115, 48))
    if kind in ("turtle", "scarf"):
        hole = d.ellipse(0, 0.4, 0.01, 0.01)
    if kind == "suit":
        shirt(t, frame, rng, layer, neck, x, y, other)
    cut = torso(t, frame) * (1 - d.polygon(frame.shape, frame.px(hole)))
    edge = d.blur(d.line(frame.shape, frame.px(hole), 0.03 * frame.face_px, True), 0.006 * frame.face_px)
    layer.image = d.over(layer.image, layer.image * 0.6, edge * (1 - cut) * 0.6)
    layer.paint(main, cut)
    trimmings(t, frame, layer, neck, x, y, main, other)


def v_opening(neck: float, end: float) -> Points:
    """An opening that narrows to a point."""
    return d.mirrored(
        vec([(0, 0.45), (neck, 0.5), (neck + 0.025, 0.60), (neck * 0.55, 0.6 + (end - 0.6) * 0.5), (0, end)])
    )


def shirt(
    t: Traits, frame: Frame, rng: np.random.Generator, layer: Layer, neck: float, x: Array, y: Array, tie: Image
) -> None:
    """A shirt with a collar, and a tie, under a jacket."""
    white = cloth(t, frame, rng, vec([0.93, 0.93, 0.94]), x, y)
    layer.paint(white, torso(t, frame) * (1 - d.polygon(frame.shape, frame.px(v_opening(neck - 0.03, 0.74)))))
    knot = [(0, 0.70), (0.05, 0.70), (0.035, 0.78), (0.075, 1.2), (0.08, 1.5), (0, 1.5)]
    layer.paint(tie * 0.85, d.polygon(frame.shape, frame.px(d.mirrored(vec(knot)))))


def trimmings(
    t: Traits, frame: Frame, layer: Layer, neck: float, x: Array, y: Array, main: Image, other: Image
) -> None:
    """Collars, lapels, scarves, hoods and necklines."""
    kind = t.clothes
    if kind in ("collar", "suit"):
        wings(frame, layer, neck, other if kind == "collar" else main * 0.72, kind == "suit")
    elif kind == "turtle":
        ribs = 1 - 0.10 * (0.5 + 0.5 * np.sin(x * 190)) * (t.style != "cartoon")
        shade = ribs * (0.82 + 0.25 * d.smoothstep(0.45, 0.62, y))
        layer.paint(main * shade[..., None], shape(frame, tube(neck)))
    elif kind == "scarf":
        scarf(frame, layer, neck, x, y, other)
    elif kind == "hoodie":
        hood(frame, layer, neck, main)
    else:
        hole = v_opening(neck + 0.02, 0.98) if kind == "vneck" else d.ellipse(0, 0.57, neck + 0.065, 0.115, 48)
        trim = d.line(frame.shape, frame.px(hole), 0.028 * frame.face_px, True) * d.smoothstep(0.59, 0.63, y)
        layer.paint(main * 0.72, trim)


def tube(neck: float) -> list[tuple[float, float]]:
    """Right half of a high collar round the neck."""
    high = [(0, 0.43), (neck - 0.02, 0.435), (neck + 0.02, 0.46)]
    return [*high, (neck + 0.03, 0.58), (neck + 0.09, 0.66), (0, 0.74)]


def wings(frame: Frame, layer: Layer, neck: float, cloth_: Image, lapels: bool) -> None:
    """Both wings of a shirt's collar, or both lapels of a jacket, with their shadows."""
    wing = [(neck - 0.045, 0.50), (neck + 0.02, 0.55), (neck + 0.09, 0.66), (0.13, 0.80), (0.015, 0.755)]
    if lapels:
        wing = [(neck + 0.03, 0.58), (neck + 0.13, 0.67), (neck + 0.10, 0.92), (neck + 0.03, 0.95), (0.04, 1.42)]
    for side in (-1, 1):
        mask = d.polygon(frame.shape, frame.px(vec(wing) * vec([side, 1])))
        shade = d.blur(np.roll(mask, round(0.015 * frame.face_px), 0), 0.012 * frame.face_px)
        layer.image = d.over(layer.image, layer.image * 0.6, shade * 0.6 * (1 - mask))
        layer.paint(cloth_, mask)


def scarf(frame: Frame, layer: Layer, neck: float, x: Array, y: Array, wool: Image) -> None:
    """Two rolls of wool round the neck."""
    for k, height in enumerate((0.62, 0.53)):
        roll = d.ellipse(0.02 * (-1) ** k, height, neck + 0.13 - 0.03 * k, 0.105, 48)
        shade = 0.55 + 0.5 * np.clip((height + 0.08 - y) / 0.16, 0, 1) + 0.06 * np.sin((y * 2 + x * (-1) ** k) * 55)
        layer.paint(wool * shade[..., None], d.polygon(frame.shape, frame.px(roll)))


def hood(frame: Frame, layer: Layer, neck: float, main: Image) -> None:
    """The hood that lies on the shoulders, and its cords."""
    high = [(0, 0.60), (neck + 0.03, 0.52), (neck + 0.11, 0.50), (neck + 0.20, 0.62)]
    hole = d.polygon(frame.shape, frame.px(d.ellipse(0, 0.53, neck + 0.05, 0.155, 48)))
    layer.paint(main * 0.86, shape(frame, [*high, (0.30, 0.76), (0.12, 0.83), (0, 0.78)]) * (1 - hole))
    for side in (-1, 1):
        cord = d.line(frame.shape, frame.px(vec([(0.12 * side, 0.76), (0.13 * side, 1.1)])), 0.017 * frame.face_px)
        layer.paint(vec([0.92, 0.91, 0.88]) * np.ones_like(main), cord)
