"""What a checkpoint's picture is worth, in figures: sync, identity, controls, joins, drift. On drawn portraits, voices
and languages never trained on.

PYTHONPATH=. python tests/figures.py [--weights FOLDER] [--clips 40] [--controls 6] [--long 3] [--preset balanced]
[--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from linker.config import AudioSettings, FaceSettings, GenerateSettings, LimitSettings
from linker.synth import speech as speech_module
from linker.synth import texts
from linker.synth.geometry import GAP
from linker.synth.motion import Motion, rest
from linker.synth.portrait import STYLES, Portrait, draw_portrait
from linker.synth.speech import random_speech
from linker.synth.visemes import motion
from linker.synth.warp import MESH_H

FIRST_SEED = 7_000_000  # far from the training videos' seeds
UPPER_LIP, LOWER_LIP, FOREHEAD, CHIN = 13, 14, 10, 152  # of the face mesh: inner lips, and the face's height
UNHEARD = {  # languages that training never heard: eSpeak's voice, and what is said
    "fi": ("fi", ("Hyvää huomenta, mitä sinulle kuuluu tänään?", "Lumi sataa hiljaa vanhan kaupungin katoille.")),
    "el": ("el", ("Καλημέρα σας, πώς είστε σήμερα;", "Το μουσείο ανοίγει κάθε πρωί στις εννέα.")),
    "sv": ("sv", ("God morgon, hur mår du idag?", "Båten går varje kväll över sundet.")),
    "id": ("id", ("Selamat pagi, apa kabar hari ini?", "Museum ini dibuka setiap pagi pukul sembilan.")),
}
UNHEARD_VARIANTS = (  # of eSpeak's voices, none of which training heard
    "Alex", "Andrea", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee", "Mario", "adam", "anika", "aunty", "belinda",
    "david", "edward", "grandma", "m8", "marcelo", "miguel", "norbert", "pablo", "paul", "quincy", "sandro", "victor",
)  # fmt: skip
UNHEARD_EVERY = 4  # clips, of which one speaks a language that training never heard

LIDS = ((159, 145), (386, 374))  # of the face mesh: upper and lower lid of each eye
STEADY = (33, 133, 362, 263, 168, 6, 197, 195)  # corners of the eyes and the bridge of the nose
WINDOW = 12  # frames between two joins
SPOKEN_S, LONG_S = (2.6, 3.0), (60.0, 60.5)  # of a clip, and of one that may drift
LAGS = range(-3, 4)
REGIONS = ("head", "mouth", "eyes")
Try = tuple[str, str, float]  # "scales" or "ranges", a region, its value
EVERY_TRY: list[Try] = [("scales", region, value) for region in REGIONS for value in (0.0, 0.5, 1.5, 2.0)]
EVERY_TRY += [("ranges", "mouth", value) for value in (0.6, 0.8, 1.25, 1.5)]
TURNS = [(float(yaw), float(pitch)) for yaw in range(-14, 15, 2) for pitch in range(-8, 9, 2)]
TURNING = (*STEADY, 1, 4, 98, 327, 10, 234, 454, 127, 356)  # and nose, forehead and cheeks, which tell a turn
Turn = tuple[float, float]
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """What a face mesh sees of a clip, a frame: the lips' opening and the lids' in face heights, where the head is (x
    and y in face heights, roll in radians / 2), and its points (T, 478, 2)."""

    frames: NDArray[np.uint8]
    points: NDArray[np.float64]
    mouth: Curve
    lids: Curve
    head: Curve


def correlation(one: Curve, other: Curve) -> float:
    """Pearson's, over the frames that both have and in which a face was seen."""
    length = min(len(one), len(other))
    seen = np.isfinite(one[:length]) & np.isfinite(other[:length])
    if seen.sum() < 10 or one[:length][seen].std() == 0 or other[:length][seen].std() == 0:
        return 0.0
    return float(np.corrcoef(one[:length][seen], other[:length][seen])[0, 1])


@dataclass(frozen=True)
class Prepared:
    """A drawn portrait and a spoken text through the workflow's own preparation: the shard's row and the truth."""

    row: dict[str, Any]
    folder: Path
    language: str
    true: Curve
    portrait: Portrait
    motion: Motion

    def frame(self, number: int, side: int, turn: Turn = (0.0, 0.0)) -> NDArray[np.uint8]:
        """The true frame with another turn of the head (yaw and pitch, degrees), as the workflow crops it."""
        held = self.motion[number : number + 1].with_curves(yaw_deg=turn[0], pitch_deg=turn[1], roll_deg=0, x=0, y=0)
        x0, y0, x1, _ = json.loads((self.folder / "crop.json").read_text())["box_px"]
        scale = side / (x1 - x0)
        place = np.array([[scale, 0, scale * (0.5 - x0) - 0.5], [0, scale, scale * (0.5 - y0) - 0.5]])
        return cv2.warpAffine(self.portrait.render(held)[0], place, (side, side), borderMode=cv2.BORDER_REPLICATE)


def prepare(number: int, folder: Path, duration_s: tuple[float, float] = SPOKEN_S) -> Prepared:
    """Every clip has a voice that training never heard, every fourth a language that it never heard."""
    from linker.audio import normalize_audio
    from linker.face import crop_face, extract_masks
    from linker.media import write_wav

    seed, style = FIRST_SEED + number, STYLES[number % len(STYLES)]
    name = f"{number:02d}-{style}"
    here = folder / name
    here.mkdir(parents=True)
    portrait = draw_portrait(seed, style, 512)
    Image.fromarray(portrait.render(rest(1))[0]).save(here / "portrait.png")
    row, last = divmod(number, UNHEARD_EVERY)
    unheard = sorted(UNHEARD)[row % len(UNHEARD)] if last == UNHEARD_EVERY - 1 else None
    voices = {language: voice for language, (voice, _) in UNHEARD.items()}
    said = {language: sentences for language, (_, sentences) in UNHEARD.items()}
    with (
        mock.patch.dict(speech_module.VOICES, voices),
        mock.patch.dict(texts.SENTENCES, said),
        mock.patch.object(speech_module, "VARIANTS", UNHEARD_VARIANTS),
    ):
        speech = random_speech(seed, unheard, duration_s=duration_s)
    write_wav(here / "speech.wav", speech.samples, 16_000)
    limits, face = LimitSettings(), FaceSettings()
    crop_face(here / "portrait.png", here / "face.png", here / "crop.json", "", face, limits)
    extract_masks(here / "face.png", here / "crop.json", here / "masks.npz", here / "debug.png", face)
    normalize_audio(here / "speech.wav", here / "driver.wav", here / "loudness.json", AudioSettings(), limits)
    files = {"face": "face.png", "crop": "crop.json", "masks": "masks.npz"}
    files |= {"driver": "driver.wav", "loudness": "loudness.json"}
    row: dict[str, Any] = {key: f"{name}/{file}" for key, file in files.items()}
    row |= {"clip": name, "seed": number, "scales": [1, 1, 1], "ranges": [1, 1, 1]}
    spoken = motion(speech, seed)
    return Prepared(row, here, speech.language, spoken.open.astype(np.float64), portrait, spoken)


def look(frames: NDArray[np.uint8]) -> Seen:
    """Measure every frame; one without a face repeats the one before, the first ones the next. Raises ValueError where
    no frame has a face."""
    from linker.face_models import find_landmarks

    side = frames.shape[1]
    found = [find_landmarks(frame, (0, 0, side, side)) for frame in frames]
    last = next((points for points in found if points is not None), None)
    if last is None:
        raise ValueError("no frame has a face")
    points = np.array([last := last if each is None else each for each in found], np.float64)
    height = np.median(np.linalg.norm(points[:, CHIN] - points[:, FOREHEAD], axis=1))
    mouth = np.linalg.norm(points[:, LOWER_LIP] - points[:, UPPER_LIP], axis=1) / height
    lids = np.mean([np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in LIDS], 0) / height
    across = points[:, 263] - points[:, 33]
    place = points[:, STEADY].mean(1) / height
    return Seen(frames, points, mouth, lids, np.c_[place, np.arctan2(across[:, 1], across[:, 0]) / 2])


def generated(
    prepared: list[Prepared], folder: Path, settings: GenerateSettings, name: str, **changes: Any
) -> list[Seen]:
    """The prepared rows, with some of their fields changed, through the real step."""
    from linker.media import read_frames

    videos = made(prepared, folder, settings, name, **changes)
    return [look(np.stack(list(read_frames(video)))) for video in videos]


def made(prepared: list[Prepared], folder: Path, settings: GenerateSettings, name: str, **changes: Any) -> list[Path]:
    """Their videos."""
    from linker.generate import generate
    from linker.records import read_json, write_json

    rows = [each.row | {"clip": f"{each.row['clip']}-{name}", "preset": settings.preset} | changes for each in prepared]
    listing, ledger = folder / "shards" / f"{name}.json", folder / "shards" / name / "ledger.json"
    write_json(listing, {"shard": name, "rows": rows})
    generate(listing, ledger, settings)
    entries = read_json(ledger)["rows"]
    return [folder / entries[row["clip"]]["video"] for row in rows]


def sync_of(prepared: list[Prepared], seen: list[Seen]) -> dict[str, Any]:
    """Line 1: correlation with the truth and with another clip's, by language, the best lag, the mouth at rest."""
    own = [correlation(clip.mouth, each.true) for clip, each in zip(seen, prepared, strict=True)]
    other = [correlation(clip.mouth, each.true) for clip, each in zip(seen, [*prepared[1:], prepared[0]], strict=True)]
    lags = [best_lag(clip.mouth, each.true) for clip, each in zip(seen, prepared, strict=True)]
    speaks = np.concatenate([clip.mouth[: len(e.true)] for clip, e in zip(seen, prepared, strict=True)])
    truth = np.concatenate([e.true[: len(clip.mouth)] for clip, e in zip(seen, prepared, strict=True)])
    rests = np.concatenate([resting(e.true[: len(clip.mouth)]) for clip, e in zip(seen, prepared, strict=True)])
    languages = {language: [o for o, e in zip(own, prepared, strict=True) if e.language == language]
                 for language in sorted({e.language for e in prepared})}  # fmt: skip
    wide = np.mean(
        [clip.mouth.std() / (GAP / MESH_H * each.true.std()) for clip, each in zip(seen, prepared, strict=True)]
    )
    return {
        "amplitude": wide, "own": np.mean(own), "least_clip": min(own), "other": np.mean(other), "lags": lags,
        "rest_share": speaks[rests].mean() / speaks[truth > 0.1].mean() if rests.any() else None,
        "languages": {language: np.mean(values) for language, values in languages.items()},
    }  # fmt: skip


def best_lag(measured: Curve, true: Curve) -> int:
    """Frames by which the mouth comes late."""
    length = min(len(measured), len(true))
    inner = slice(3, length - 3)
    return max(LAGS, key=lambda lag: correlation(np.roll(measured[:length], -lag)[inner], true[:length][inner]))


def resting(true: Curve) -> NDArray[np.bool_]:
    """Frames amid silence: the mouth is shut, and was two frames ago."""
    shut = np.convolve(true > 0.01, np.ones(5), mode="same") == 0
    shut[:4] = False
    return shut


def identity_of(prepared: list[Prepared], seen: list[Seen]) -> float:
    """Line 2: SSIM of the face outside mouth and eyes with the truth, posed alike."""
    return float(np.mean([likeness(each, clip) for each, clip in zip(prepared, seen, strict=True)]))


def likeness(prepared: Prepared, clip: Seen) -> float:
    """Mean SSIM of every fifth frame with the truth whose head is turned, shifted and leant as the clip's is."""
    from skimage.metrics import structural_similarity

    side, found = clip.frames.shape[1], []
    inside, turned = face_alone(prepared.folder / "masks.npz", side), turns_of(prepared, side)
    for number in range(0, min(len(clip.frames), len(prepared.true)), 5):
        turn = min(turned, key=lambda turn: posed(clip.points[number], turned[turn])[1])
        truth = prepared.frame(number, side, turn)
        place, _ = posed(clip.points[number], look(truth[None]).points[0])
        shown, true = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (clip.frames[number], truth))
        laid = laid_upon(shown, true, place, inside)
        _, similar = structural_similarity(
            laid, true, full=True, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        found.append(similar[inside].mean())
    return float(np.mean(found))


def laid_upon(
    shown: NDArray[np.uint8], true: NDArray[np.uint8], place: NDArray[np.float64], inside: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """A grey picture laid upon the true one: from `place`, which landmarks gave to a pixel or two, refined by what is
    seen (Evangelidis and Psarakis 2008)."""
    side, back = len(true), cv2.invertAffineTransform(place).astype(np.float32)
    ends = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    with suppress(cv2.error):  # no better place is found
        _, back = cv2.findTransformECC(true, shown, back, cv2.MOTION_AFFINE, ends, inside.astype(np.uint8), 3)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(shown, back, (side, side), flags=how, borderMode=cv2.BORDER_REPLICATE))


def face_alone(masks: Path, side: int) -> NDArray[np.bool_]:
    """The head outside mouth and eyes, (side, side)."""
    with np.load(masks) as stored:
        head, mouth, eyes = (cv2.resize(stored[name].astype(np.float32), (side, side)) for name in REGIONS)
    return np.asarray((head > 0.5) & (cv2.dilate(np.maximum(mouth, eyes), np.ones((9, 9))) < 0.1))


def turns_of(prepared: Prepared, side: int) -> dict[Turn, NDArray[np.float64]]:
    """The face mesh's points of the true portrait for every turn of the head, where it sees one."""
    found = {}
    for turn in TURNS:
        with suppress(ValueError):  # turned too far to be found
            found[turn] = look(prepared.frame(0, side, turn)[None]).points[0]
    return found


def posed(points: NDArray[np.float64], like: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The similarity (2, 3) that lays a face on another, and how far their points then lie apart."""
    one, other = points[list(TURNING)], like[list(TURNING)]
    place, _ = cv2.estimateAffinePartial2D(one, other, method=cv2.LMEDS)
    return place, float(np.linalg.norm(one @ place[:, :2].T + place[:, 2] - other, axis=1).mean())


def blinks_of(prepared: list[Prepared], seen: list[Seen]) -> dict[str, float]:
    """How much lower lids are where the speech shuts them, as a share of how far they are open otherwise (which a nod
    changes, too), and how well their course follows."""
    lower, follows = list[float](), list[float]()
    for each, clip in zip(prepared, seen, strict=True):
        told, lids = each.motion.blink[: len(clip.lids)], clip.lids[: len(each.motion)]
        if (told > 0.7).any():
            lower.append(1 - float(lids[told > 0.7].mean() / np.median(lids[told < 0.05])))
            follows.append(correlation(-lids, told.astype(np.float64)))
    return {"clips": len(lower), "lower": float(np.mean(lower)), "follows": float(np.mean(follows))}


def motion_of(prepared: list[Prepared], seen: list[Seen]) -> dict[str, float]:
    """How far each region moves: deviation of the head's place and of the mouth's opening, and how far lids blink."""
    return {
        "head": float(np.mean([np.linalg.norm(clip.head.std(0)) for clip in seen])),
        "mouth": float(np.mean([clip.mouth.std() for clip in seen])),
        "eyes": blinks_of(prepared, seen)["lower"],
    }


def controls_of(
    prepared: list[Prepared], folder: Path, settings: GenerateSettings, tries: list[Try] | None = None
) -> dict[str, Any]:
    """Line 3: motion of every region with one control changed, as a share of the motion without."""
    base = motion_of(prepared, generated(prepared, folder, settings, "base"))
    table = {}
    for kind, region, value in EVERY_TRY if tries is None else tries:
        told = [value if region == each else 1.0 for each in REGIONS]
        name = f"{kind[:-1]}-{region}-{value:g}".replace(".", "_")
        moved = motion_of(prepared, generated(prepared, folder, settings, name, **{kind: told}))
        table[name] = {part: moved[part] / base[part] if base[part] else None for part in base}
        print(name, table[name], flush=True)
    return {"base": base, **table}


def joins_of(seen: list[Seen]) -> float:
    """Line 4: mean frame difference at joins of windows, as a share of that inside them."""
    at_joins, inside = [], []
    for clip in seen:
        change = np.abs(np.diff(clip.frames.astype(np.int16), axis=0)).mean((1, 2, 3))
        joins = np.arange(len(change)) % WINDOW == WINDOW - 1
        at_joins += list(change[joins])
        inside += list(change[~joins][WINDOW:])
    return float(np.mean(at_joins) / np.mean(inside))


def drift_of(
    folder: Path, settings: GenerateSettings, clips: int, duration_s: tuple[float, float] = LONG_S
) -> dict[str, float]:
    """Line 4, over a minute: how far the last second is from the first in sharpness and in colour (of the channel that
    differs most), as shares; of the clip that is farthest."""
    prepared = [prepare(number, folder, duration_s) for number in range(clips)]
    videos = made(prepared, folder, settings, "long")
    ends = [ends_of(video, each) for video, each in zip(videos, prepared, strict=True)]
    apart = np.array([np.abs(last / first - 1) for first, last in ends])
    return {"sharpness": float(apart[:, 0].max()), "colour": float(apart[:, 1:].max())}


def ends_of(video: Path, prepared: Prepared) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(sharpness, red, green, blue) of the face outside mouth and eyes, in the first and in the last second."""
    from linker.config import FPS
    from linker.media import read_frames

    measured, inside = [], None
    for frame in read_frames(video):
        inside = face_alone(prepared.folder / "masks.npz", len(frame)) if inside is None else inside
        detail = cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_32F)[inside].std()
        measured.append([detail, *frame[inside].mean(0)])
    return np.mean(measured[:FPS], 0), np.mean(measured[-FPS:], 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--controls", type=int, default=6, help="clips with which every control is tried")
    parser.add_argument("--long", type=int, default=3, help="clips of a minute")
    parser.add_argument("--preset", default=GenerateSettings().preset)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    settings = GenerateSettings(weights=given.weights, preset=given.preset)
    prepared = [prepare(number, folder) for number in range(max(given.clips, given.controls))]
    clips = prepared[: given.clips]
    seen = generated(clips, folder, settings, "clips") if clips else []
    figures: dict[str, Any] = {"weights": given.weights, "preset": given.preset}
    if seen:
        figures |= {"sync": sync_of(clips, seen), "ssim": identity_of(clips, seen), "joins": joins_of(seen)}
        figures |= {"blinks": blinks_of(clips, seen)}
    if given.controls:
        figures["controls"] = controls_of(prepared[: given.controls], folder, settings)
    if given.long:
        figures["drift"] = drift_of(folder / "long", settings, given.long)
    text = json.dumps(figures, indent=1, default=float)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
