"""mux_audio: the finished crop back in its portrait, with the row's own sound, checked before anybody sees it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from linker import __version__, compose
from linker.config import FPS, FinishSettings, LimitSettings
from linker.errors import LinkerError
from linker.media import audio_chunks, encode_video, frame_md5, pcm_md5, probe, read_frames
from linker.pictures import read_picture
from linker.records import Refusal, atomic, read_json, sha256_file, write_json

PASTE_MARGIN = 0.02  # of the crop's side: what around the head comes from the generated video, too
ACCEPTED = LimitSettings(max_image_mb=10_000, max_image_megapixels=1000, min_image_px=16)  # crop_face has checked it
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "opencv-contrib-python", "av")
COMMENT = "AI-generated video: LinguaLinker moved this portrait to the speech."


def mux_audio(
    upscaled: Path,
    portrait: Path,
    crop: Path,
    masks: Path,
    audio: Path,
    loudness: Path,
    language: Path,
    ledger: Path,
    video: Path,
    sidecar: Path,
    row: str,
    settings: FinishSettings,
) -> None:
    """Write the deliverable `video` (MP4) and then `sidecar` (provenance and checks).

    `row` is the row as JSON: clip, and language, title, consent_ref, licence_ref where given. Raises LinkerError when a
    check fails; a deliverable that was there before then stays as it was.
    """
    fields = json.loads(row)
    sound, box = read_json(loudness), read_json(crop)
    entry = _done_entry(fields["clip"], read_json(ledger), sound, box)
    tag, warnings = choose_language(fields.get("language") or "", read_json(language))
    placement, count = compose.place(box, settings), frame_count(sound["duration_s"])
    with atomic(video) as draft:
        frames = _pictures(upscaled, portrait, box, masks, placement, settings)
        _encode(frames, draft, placement, audio, tag, fields, count, settings)
        checks = run_checks(draft, placement, count)
        _refuse_failed(fields["clip"], checks)
        facts = {"frame_md5": frame_md5(draft), "pcm_md5": pcm_md5(draft), "video_sha256": sha256_file(draft)}
    for warning in warnings:
        print(f"{fields['clip']}: warning: {warning}", file=sys.stderr)
    write_json(sidecar, {
        "clip": fields["clip"], "title": fields.get("title", ""), "video": video.name,
        "size_px": [placement.width, placement.height], "fps": FPS, "frames": count, "duration_s": count / FPS,
        "language": tag, "warnings": warnings, "checks": checks, **facts,
        "inputs": {"portrait": _input(portrait), "audio": _input(audio)},
        "consent_ref": fields.get("consent_ref", ""), "licence_ref": fields.get("licence_ref", ""),
        "generation": entry, "finish": settings.model_dump(mode="json"), "versions": versions(),
    })  # fmt: skip


def frame_count(duration_s: float) -> int:
    """Pictures in a clip of this length: the nearest whole number, at least one."""
    return max(1, round(duration_s * FPS))


def choose_language(wanted: str, detected: dict[str, Any]) -> tuple[str, list[str]]:
    """BCP-47 tag of the sound track and warnings: the manifest's word wins over what was heard (language.json)."""
    heard = detected["language"]
    if not wanted:
        return heard, []
    if heard == "und" or heard.split("-")[0].lower() == wanted.split("-")[0].lower():
        return wanted, []
    sure = f" (probability {detected['probability']:.2f})" if detected.get("probability") is not None else ""
    return wanted, [f"the manifest says language {wanted}, the speech sounds like {heard}{sure}"]


def run_checks(video: Path, placement: compose.Placement, count: int) -> list[dict[str, Any]]:
    """Decode a finished MP4 whole; each check as {"name", "passed", "value", "limit"}."""
    info = probe(video)
    frames = sum(1 for _ in read_frames(video))
    sound_s = _sound_s(video)
    size = [info.video.width, info.video.height] if info.video else None
    apart = abs(sound_s * FPS - frames)
    return [
        _check("frames decoded", frames == count, frames, count),
        _check("sound and picture end together, frames apart", apart <= 1, round(apart, 3), 1),
        _check("size", size == [placement.width, placement.height], size, [placement.width, placement.height]),
        _check("pixel format", info.video is not None and info.video.pix_fmt == "yuv420p",
               info.video.pix_fmt if info.video else None, "yuv420p"),
    ]  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of this program and of what made the pictures, read without importing any of it."""
    found = {"linker": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # one of several packages that bring the same module
    return found


def _done_entry(clip: str, ledger: dict[str, Any], *sidecars: dict[str, Any]) -> dict[str, Any]:
    """The ledger's entry of a row that was generated. Raises LinkerError for a row that is not to be delivered."""
    entry: dict[str, Any] | None = ledger["rows"].get(clip)
    if entry is None:
        raise LinkerError(f"{clip}: the ledger has no such row; generate its shard again")
    for source in (*sidecars, entry):
        if refusal := Refusal.from_json(source.get("refusal")):
            raise LinkerError(f"{clip}: refused by {refusal.step}: {refusal.reason}")
    return entry


def _pictures(upscaled: Path, portrait: Path, box: dict[str, Any], masks: Path, placement: compose.Placement,
              settings: FinishSettings) -> Iterator[np.ndarray]:  # fmt: skip
    """Frames of the deliverable, uint8 (height,width,3): the crop alone, or melted into the whole portrait."""
    crops = _sized(upscaled, placement.crop_px)
    if settings.layout == "crop":
        yield from crops
        return
    canvas = _canvas(portrait, box, placement)
    rows, columns, crop_rows, crop_columns = placement.shown
    still = compose.crop_of(canvas, placement)
    regions, feather = compose.read_masks(masks), settings.paste_feather
    core = compose.head_weight(regions["head"], placement.crop_px, PASTE_MARGIN, feather)
    edge = compose.edge_weight(placement, feather)
    for frame, weight in compose.follow(crops, still, core, np.ones_like(core)):
        picture = canvas.copy()
        part = compose.blend(frame, still, weight * edge)
        picture[rows, columns] = part[crop_rows, crop_columns]
        yield picture


def _sized(upscaled: Path, side: int) -> Iterator[np.ndarray]:
    for frame in read_frames(upscaled):
        if frame.shape != (side, side, 3):
            found = f"{frame.shape[1]} x {frame.shape[0]}"
            raise LinkerError(f"{upscaled}: frames are {found}, needed {side} x {side}; run upscale_video again")
        yield frame


def _canvas(portrait: Path, box: dict[str, Any], placement: compose.Placement) -> np.ndarray:
    picture = read_picture(portrait, ACCEPTED)
    found, needed = [picture.shape[1], picture.shape[0]], list(box["source_size_px"])
    if found != needed:
        raise LinkerError(f"{portrait}: is {found} pixels, was {needed} when its face was cropped; run crop_face again")
    return compose.draw_canvas(picture, placement)


def _encode(frames: Iterator[np.ndarray], draft: Path, placement: compose.Placement, audio: Path, tag: str,
            fields: dict[str, Any], count: int, settings: FinishSettings) -> None:  # fmt: skip
    labels = {"title": fields.get("title") or fields["clip"], "comment": COMMENT}
    try:
        encode_video(frames, draft, placement.width, placement.height, audio, tag, settings.crf, settings.audio_kbps,
                     labels, frame_count=count)  # fmt: skip
    except ValueError as error:  # a wrong number of frames, a sound file that changed since it was prepared
        raise LinkerError(f"{fields['clip']}: cannot be encoded: {error}") from error


def _sound_s(video: Path) -> float:
    samples, rate_hz = 0, 1
    for chunk, rate_hz in audio_chunks(video):  # noqa: B007  (every piece tells the same rate)
        samples += chunk.shape[1]
    return samples / rate_hz


def _check(name: str, passed: bool, value: Any, limit: Any) -> dict[str, Any]:
    return {"name": name, "passed": passed, "value": value, "limit": limit}


def _refuse_failed(clip: str, checks: list[dict[str, Any]]) -> None:
    failed = [f"{check['name']}: found {check['value']}, needed {check['limit']}"
              for check in checks if not check["passed"]]  # fmt: skip
    if failed:
        raise LinkerError(f"{clip}: the finished video failed its checks and was not delivered: {'; '.join(failed)}")


def _input(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": sha256_file(path)}
