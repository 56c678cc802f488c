"""The baked face without eyes and lips: relief lit from one side, complexion, age, brows and beard."""

from __future__ import annotations

import numpy as np

from linker.synth import drawing as d
from linker.synth.drawing import Array, Image, Points, vec
from linker.synth.geometry import Frame, outline
from linker.synth.traits import Traits


def bump(x: Array, y: Array, cx: float, cy: float, sx: float, sy: float) -> Array:
    """A Gaussian of height 1, mirrored to both sides when cx is not 0."""
    gauss: Array = np.exp(-((((np.abs(x) if cx else x) - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)
    return gauss


def relief(x: Array, y: Array, t: Traits, face_px: float) -> Array:
    """Height of the face's surface, face heights: what the light sees."""
    points = outline(t)
    right = points[: len(points) // 2 + 1]
    width = np.interp(y, right[:, 1], np.maximum(right[:, 0], 0)).astype(np.float32)
    dome = 0.36 * np.sqrt(np.clip(1 - (x / np.maximum(width, 1e-3)) ** 2, 0, 1)) * (1 - 0.35 * ((y + 0.05) / 0.65) ** 2)
    z = d.blur(dome.astype(np.float32), 0.022 * face_px)
    ny, size = t.nose_y, t.nose_size
    down = np.clip((y + 0.12) / (ny + 0.12), 0, 1)
    ridge = np.exp(-((x / (0.032 + 0.025 * down)) ** 2)) * down**1.3 * (1 - d.smoothstep(ny, ny + 0.055, y))
    z = z + 0.085 * size * ridge + 0.028 * bump(x, y, t.nose_w * 0.72, ny + 0.012, 0.024, 0.026)
    z = z - 0.034 * bump(x, y, t.eye_x - 0.01, t.eye_y, 0.085, 0.05) + 0.014 * bump(x, y, t.eye_x, t.eye_y, 0.06, 0.045)
    z = z + 0.012 * bump(x, y, 0.14, t.brow_y + 0.005, 0.12, 0.035) + 0.02 * bump(x, y, 0.25, 0.04, 0.08, 0.07)
    z = z + 0.026 * bump(x, y, 0, t.mouth_y, 0.14, 0.09) - 0.006 * bump(x, y, 0, ny + 0.085, 0.014, 0.03)
    z = z - 0.014 * bump(x, y, 0, t.mouth_y + 0.085, 0.09, 0.022) + 0.024 * bump(x, y, 0, 0.43, 0.075, 0.05)
    return z - 0.010 * t.age * bump(x, y, 0.15, 0.19, 0.03, 0.06)


def diffuse(z: Array, t: Traits, face_px: float, soft: float = 0.25) -> tuple[Image, Image]:
    """Wrapped Lambert light 0..1 and a highlight 0..1 of a surface `z` (face heights)."""
    gy, gx = np.gradient(d.blur(z, 0.006 * face_px) * face_px)
    normal = np.stack([-gx, -gy, np.ones_like(gx)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = vec([t.light_x, t.light_y, 0.9])
    light /= np.linalg.norm(light)
    half = light + vec([0, 0, 1])
    half /= np.linalg.norm(half)
    lit = np.clip((normal @ light + soft) / (1 + soft), 0, 1).astype(np.float32)
    return lit, np.clip(normal @ half, 0, 1).astype(np.float32)


def tone(lit: Image, t: Traits) -> Image:
    """Light as a colour multiplier (H, W, 3): each style has its own idea of shadow."""
    if t.style == "cartoon":
        dark, step = vec([0.83, 0.72, 0.74]), d.smoothstep(0.50, 0.56, lit)[..., None]
        return dark + (1 - dark) * step
    if t.style == "painting":
        shadow, sun = vec([0.50, 0.42, 0.46]), vec([1.03, 1.0, 0.93])
        return shadow + (sun - shadow) * d.smoothstep(0.1, 0.95, lit)[..., None]
    base = {"sculpture": 0.16 + 0.98 * lit**1.3, "shaded": 0.42 + 0.58 * lit, "photo": 0.33 + 0.68 * lit}[t.style]
    power = (1.0, 1.0, 1.0) if t.style == "sculpture" else (0.85, 1.05, 1.15)
    warm = 1 + 0.035 * t.warmth * vec([1, 0, -1])
    return base[..., None] ** vec(power) * warm


def surface(t: Traits) -> tuple[float, float, float]:
    """What the skin is made of."""
    return t.material if t.style == "sculpture" else t.skin


def bake(t: Traits, frame: Frame, rng: np.random.Generator) -> tuple[Image, Image, Image]:
    """The bare face: (H, W, 3) colours, (H, W) alpha and the (H, W, 3) light that eyes and lips share."""
    x, y = frame.grid()
    z = relief(x, y, t, frame.face_px)
    lit, shine = diffuse(z, t, frame.face_px)
    light = tone(lit, t)
    image: Image = complexion(t, x, y, rng) * light + gloss(t, shine)[..., None]
    image = details(t, frame, image, x, y)
    if t.style == "photo":
        pores = d.noise(rng, frame.shape, 2.5, 2) + d.noise(rng, frame.shape, 30, 2)
        image = image * (1 + 0.012 * pores)[..., None]
    if t.style != "sculpture" or t.beard not in ("none", "stubble"):
        image = beard(t, frame, image, x, y, rng, light)
    alpha = d.polygon(frame.shape, frame.px(outline(t)))
    return brows(t, frame, image, rng, light), alpha, light


def gloss(t: Traits, shine: Image) -> Image:
    """Highlights on the skin."""
    strength, power = {
        "cartoon": (0, 9),
        "shaded": (0.20, 24),
        "painting": (0.12, 18),
        "sculpture": (0.22, 30),
        "photo": (0.13, 22),
    }[t.style]
    return strength * shine**power * (1.45 - float(np.mean(surface(t))))


def complexion(t: Traits, x: Array, y: Array, rng: np.random.Generator) -> Image:
    """Skin colour before light: redder cheeks and nose, darker round the eyes, freckles."""
    image = np.broadcast_to(vec(surface(t)), (*x.shape, 3)).copy()
    if t.style == "sculpture":
        return image * (1 + 0.05 * d.noise(rng, (len(x), len(x)), 60, 4))[..., None]
    red = vec([1.02, 0.80, 0.80])
    cheeks = bump(x, y, 0.235, 0.085, 0.10, 0.075) * 0.55 * t.blush + 0.35 * bump(x, y, 0, t.nose_y, 0.07, 0.06)
    image = d.over(image, image * red, cheeks * (0.6 if t.style == "cartoon" else 0.8))
    socket = bump(x, y, t.eye_x, t.eye_y - 0.005, 0.10, 0.055)
    shadow = vec([0.78, 0.66, 0.72]) if t.makeup < 0.5 else vec(t.cloth) * 0.5 + 0.35
    image = d.over(image, image * shadow, socket * (0.18 + 0.3 * t.makeup + 0.15 * t.age))
    if t.freckles:
        image = freckle(image, t, x, y, rng)
    return image


def freckle(image: Image, t: Traits, x: Array, y: Array, rng: np.random.Generator) -> Image:
    """Small brown spots over nose and cheeks."""
    spots = d.smoothstep(0.6, 0.9, d.noise(rng, x.shape, 4.5))
    where = bump(x, y, 0.17, 0.07, 0.13, 0.07) + bump(x, y, 0, 0.06, 0.1, 0.06)
    return d.over(image, vec(t.skin) * vec([0.78, 0.6, 0.5]), np.clip(spots * where * 0.45, 0, 1))


def both(points: list[tuple[float, float]]) -> list[Points]:
    """A curve and its mirror image."""
    p = d.spline(vec(points), closed=False)
    return [p, p * vec([-1, 1])]


def details(t: Traits, frame: Frame, image: Image, x: Array, y: Array) -> Image:
    """Nostrils, folds and lines, each a soft dark stroke."""
    f, ny, dark = frame.face_px, t.nose_y, vec([0.42, 0.30, 0.30])
    if t.style == "sculpture":
        dark = vec([0.35, 0.35, 0.36])
    holes = bump(x, y, t.nose_w * 0.42, ny + 0.038, 0.017, 0.0085)
    under = bump(x, y, 0, ny + 0.052, t.nose_w * 0.8, 0.016)
    image = d.over(image, image * dark, np.clip(holes * 0.85 + under * 0.25, 0, 1))
    strokes = [
        (both([(t.nose_w * 0.95, ny - 0.02), (t.nose_w * 1.12, ny + 0.015), (t.nose_w * 0.9, ny + 0.042)]), 0.012, 0.3),
        *wrinkles(t),
    ]
    if t.style == "cartoon":
        strokes.append(
            (
                [
                    d.spline(
                        vec([(-t.nose_w * 0.6, ny + 0.035), (0, ny + 0.055), (t.nose_w * 0.6, ny + 0.035)]),
                        closed=False,
                    )
                ],
                0.011,
                0.55,
            )
        )
    for curves, width, strength in strokes:
        for curve in curves:
            mask = d.line(frame.shape, frame.px(curve), width * f)
            image = d.over(image, image * dark, d.blur(mask, (0.002 if t.style == "cartoon" else 0.007) * f) * strength)
    return image


def wrinkles(t: Traits) -> list[tuple[list[Points], float, float]]:
    """Curves, width and strength of the lines that age draws."""
    ny, ey, ex, a = t.nose_y, t.eye_y, t.eye_x, t.age**1.5
    folds = both(
        [(t.nose_w + 0.025, ny + 0.01), (t.mouth_w + 0.012, t.mouth_y - 0.06), (t.mouth_w + 0.04, t.mouth_y + 0.02)]
    )
    bags = both([(ex - 0.075, ey + 0.045), (ex, ey + 0.075), (ex + 0.07, ey + 0.045)])
    lines = [(folds, 0.012, 0.10 + 0.5 * a), (bags, 0.010, 0.06 + 0.4 * a)]
    if t.age > 0.45:
        for k in range(3):
            h = -0.31 - 0.05 * k
            lines.append(
                (
                    [
                        d.spline(
                            vec([(-0.2, h + 0.01), (-0.07, h - 0.005), (0.07, h - 0.005), (0.2, h + 0.01)]),
                            closed=False,
                        )
                    ],
                    0.008,
                    0.32 * a,
                )
            )
            out = ex + t.eye_w * 0.62
            lines.append((both([(out, ey - 0.005 + 0.016 * k), (out + 0.05, ey - 0.025 + 0.03 * k)]), 0.006, 0.4 * a))
    return lines


def hair_tone(t: Traits) -> Array:
    """Colour of brows and beard: the hair's, a little darker."""
    colour = vec(t.material) * 0.8 if t.style == "sculpture" else vec(t.hair_colour) * 0.85
    return colour


def brow_shape(t: Traits) -> Points:
    """The right brow as an outline, inner end first."""
    x0, x1, y0 = t.eye_x - 0.105, t.eye_x + 0.115, t.brow_y
    arch, k = 0.022 * t.brow_arch, t.brow_thick / 2
    top = [(x0, y0 - k), (t.eye_x - 0.03, y0 - arch * 0.8 - k), (t.eye_x + 0.05, y0 - arch - k * 0.9), (x1, y0 + 0.012)]
    low = [(x1, y0 + 0.016), (t.eye_x + 0.05, y0 - arch + k * 0.5), (t.eye_x - 0.03, y0 - arch * 0.8 + k), (x0, y0 + k)]
    return np.concatenate([d.spline(vec(top), closed=False), d.spline(vec(low), closed=False)])


def brows(t: Traits, frame: Frame, image: Image, rng: np.random.Generator, light: Image) -> Image:
    """Both brows: a soft body and single hairs along it (cartoon: the body alone)."""
    shape, colour = brow_shape(t), hair_tone(t)
    flat = t.style == "cartoon"
    for side in (-1, 1):
        body = d.polygon(frame.shape, frame.px(shape * vec([side, 1])))
        soft = body if flat else d.blur(body, 0.006 * frame.face_px) * 0.6
        image = d.over(image, colour * (1 if flat else light * 1.05), soft)
        if not flat:
            image = d.over(image, colour * light, brow_hairs(t, frame, rng, side) * 0.7)
    return image


def brow_hairs(t: Traits, frame: Frame, rng: np.random.Generator, side: int) -> Image:
    """Mask of short hairs that lean outwards along the brow."""
    mask = np.zeros(frame.shape, np.float32)
    for s in np.linspace(0.02, 0.95, 34):
        x0 = t.eye_x - 0.105 + 0.21 * s
        y0 = t.brow_y - 0.022 * t.brow_arch * np.sin(np.pi * min(s * 1.05, 1)) + t.brow_thick * rng.uniform(-0.3, 0.45)
        lean = 0.015 + 0.025 * s
        hair = vec([(x0, y0), (x0 + lean, y0 - 0.022 + 0.03 * s)]) * vec([side, 1])
        mask = np.maximum(mask, d.line(frame.shape, frame.px(hair), 0.006 * frame.face_px))
    return mask


def beard_mask(t: Traits, frame: Frame) -> Image:
    """Where the beard grows."""
    my, mw, c = t.mouth_y, t.mouth_w, t.cheek_w
    if t.beard in ("goatee", "moustache"):
        moustache = [
            (0, t.nose_y + 0.075),
            (mw * 0.7, my - 0.055),
            (mw + 0.035, my + 0.02),
            (mw * 0.8, my - 0.01),
            (0, my),
        ]
        mask = d.polygon(frame.shape, frame.px(d.mirrored(d.spline(vec(moustache), closed=False))))
        if t.beard == "goatee":
            chin = [(0, my + 0.07), (0.05, my + 0.065), (0.09, my + 0.12), (0.085, 0.50), (0, 0.53)]
            mask = np.maximum(mask, d.polygon(frame.shape, frame.px(d.mirrored(d.spline(vec(chin), closed=False)))))
        return mask
    low = {"stubble": 0.49, "short": 0.52, "full": 0.58, "long": 0.80}[t.beard]
    right = [
        (0, t.nose_y + 0.078),
        (mw * 0.75, my - 0.05),
        (mw + 0.05, my - 0.01),
        (c * 0.78, 0.13),
        (c * 0.93, -0.06),
        (c + 0.005, -0.06),
        (c * 0.99, 0.12),
        (t.jaw_w + 0.04, 0.30),
        (t.jaw_w * 0.72, low - 0.10),
        (0.1, low - 0.012),
        (0, low),
    ]
    return d.polygon(frame.shape, frame.px(d.mirrored(d.spline(vec(right), closed=False))))


def beard(t: Traits, frame: Frame, image: Image, x: Array, y: Array, rng: np.random.Generator, light: Image) -> Image:
    """The beard of strands, or stubble as a bluish grain."""
    if t.beard == "none":
        return image
    mask, f = beard_mask(t, frame), frame.face_px
    if t.beard == "stubble":
        grain = 0.5 + 0.35 * d.noise(rng, x.shape, 2.0)
        return d.over(image, hair_tone(t) * 0.8 + 0.1 * image, d.blur(mask, 0.03 * f) * 0.42 * np.clip(grain, 0, 1))
    body = np.clip(0.35 + 0.65 * light, 0, 1.2) * hair_tone(t) * 1.1
    if t.style != "cartoon":
        fan = np.arctan2(x, y + 0.6) * 1.2
        body = body * (1 + 0.32 * d.strands(rng, fan + 0.02 * d.noise(rng, x.shape, 20), y, 70))[..., None]
    edge = d.blur(mask, (0.002 if t.style == "cartoon" else 0.012) * f)
    return d.over(image, body, edge)


def beard_alpha(t: Traits, frame: Frame) -> Image:
    """A beard reaches beyond the chin."""
    solid = t.beard not in ("none", "stubble")
    return d.blur(beard_mask(t, frame), 0.008 * frame.face_px) if solid else np.zeros(frame.shape, np.float32)
