"""Steps that do next to nothing, with the real steps' signatures: to test the workflow around them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from linker.config import (
    AudioSettings,
    BackgroundSettings,
    FaceSettings,
    FinishSettings,
    GenerateSettings,
    LanguageSettings,
    LimitSettings,
    ProvenanceSettings,
    UpscaleSettings,
)
from linker.errors import EnvironmentError, LinkerError
from linker.manifest import read_manifest
from linker.records import Refusal, atomic, write_json
from linker.rows import Lease, Queue, opened
from linker.status import read_states

WINDOWS = 3


def _refusal(path: Path, step: str) -> dict[str, str] | None:
    text = path.read_text()
    return Refusal("bad", f"{path.name} is bad", step).to_json() if text.startswith("bad") else None


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


def examine_audio(path: Path, limits: LimitSettings, settings: AudioSettings | None = None) -> Refusal | None:
    return Refusal.from_json(_refusal(path, "normalize_audio"))


def examine_portrait(portrait: Path, choice: str, settings: FaceSettings, limits: LimitSettings) -> Refusal | None:
    return Refusal.from_json(_refusal(portrait, "crop_face"))


def normalize_audio(audio: Path, driver: Path, loudness: Path, settings: AudioSettings, limits: LimitSettings) -> None:
    if audio.read_text().startswith("broken tool"):
        raise EnvironmentError("the tool is missing; install it")
    _write(driver, audio.read_text())
    write_json(loudness, {"refusal": _refusal(audio, "normalize_audio"), "duration_s": 1.0})


def detect_language(driver: Path, loudness: Path, language: Path, settings: LanguageSettings) -> None:
    write_json(language, {"refusal": None, "language": "und"})


def crop_face(
    portrait: Path, face: Path, crop: Path, choice: str, settings: FaceSettings, limits: LimitSettings
) -> None:
    _write(face, portrait.read_text())
    write_json(crop, {"refusal": _refusal(portrait, "crop_face")})


def extract_masks(face: Path, crop: Path, masks: Path, debug: Path, settings: FaceSettings) -> None:
    _write(masks, "masks")
    _write(debug, "debug")


def generate(shard: Path, ledger: Path, settings: GenerateSettings) -> None:
    """Each row's clip names all it was made from; `trace` counts the rows that were really made."""
    with opened(shard, ledger, settings) as queue:
        while lease := queue.claim():
            with lease.attempt():
                make_row(queue, lease, settings)


def make_row(queue: Queue, lease: Lease, settings: GenerateSettings) -> None:
    """Three windows, each a line of text, in TRIVIAL_S seconds, or TRIVIAL_AGAIN_S in a job that was queued again. Rows
    may be told to fail (TRIVIAL_FAULT)."""
    row, root = lease.row, queue.root
    made = json.dumps([row, (root / row["face"]).read_text(), (root / row["driver"]).read_text(), settings.steps])
    windows = lease.stamped("trivial")
    windows.mkdir(exist_ok=True)
    for number in range(WINDOWS):
        if not (windows / str(number)).exists():
            _fault(queue, row["clip"])
            time.sleep(_row_s() / WINDOWS)
            _write(windows / str(number), f"{made}\n")
            _note(queue.folder / "windows", f"{row['clip']} {number}")
            lease.progress(number + 1, WINDOWS)
    _note(queue.folder / "trace", row["clip"])
    _write(lease.folder / "clip.mkv", "".join((windows / str(number)).read_text() for number in range(WINDOWS)))
    print(f"{row['clip']} made", flush=True)
    video = str(lease.video.relative_to(lease.video.parents[2]))
    lease.publish({"state": "done", "refusal": None, "video": video}, lease.folder / "clip.mkv")


def _row_s() -> float:
    again = bool(os.environ.get("SLURM_RESTART_COUNT")) and "TRIVIAL_AGAIN_S" in os.environ
    return float(os.environ.get("TRIVIAL_AGAIN_S" if again else "TRIVIAL_S", "0"))


def _note(path: Path, line: str) -> None:
    with path.open("a") as stream:
        stream.write(line + "\n")


def _fault(queue: Queue, clip: str) -> None:
    """'r05:kill' kills the worker whenever it makes r05, 'r05:cuda' breaks it once, 'r05:memory', 'r05:bug' fail."""
    name, _, fault = os.environ.get("TRIVIAL_FAULT", "").partition(":")
    if name != clip:
        return
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    once = queue.folder / "was-broken"
    if fault == "cuda" and not once.exists():
        once.touch()
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if fault == "memory":
        raise MemoryError("CUDA out of memory")
    if fault == "bug":
        raise ValueError("the masks make no sense")


def check_checkpoint(settings: GenerateSettings, presets: Iterable[str]) -> None:
    """The trivial model has no weights."""


def check_folder(folder: Path, tiny: bool | None = None) -> None:
    """Nor does the trivial training."""


def stabilize_background(
    generated: Path, face: Path, masks: Path, stable: Path, steadiness: Path, settings: BackgroundSettings
) -> None:
    _write(stable, generated.read_text())
    write_json(steadiness, {})


def upscale_video(stable: Path, crop: Path, upscaled: Path, settings: UpscaleSettings, finish: FinishSettings) -> None:
    if settings.tile_px == 2048:
        raise EnvironmentError("the network does not fit")
    if settings.weights:
        _note(upscaled.parent.parent / "network", "begins")
        time.sleep(0.5)
        _note(upscaled.parent.parent / "network", "ends")
    _write(upscaled, stable.read_text())


def mux_audio(
    upscaled: Path,
    portrait: Path,
    crop: Path,
    masks: Path,
    audio: Path,
    driver: Path,
    loudness: Path,
    language: Path,
    subtitles: list[Path],
    steadiness: Path,
    ledger: Path,
    video: Path,
    sidecar: Path,
    delivered: Path,
    row: str,
    settings: FinishSettings,
    background: BackgroundSettings,
    upscale: UpscaleSettings,
    provenance: ProvenanceSettings,
    listening: LanguageSettings,
) -> None:
    if audio.read_text().startswith("ends too soon"):
        raise LinkerError("the sound ends too soon")
    _write(video, upscaled.read_text())
    write_json(sidecar, {"refusal": None, "video": video.name, **json.loads(row)})
    write_json(delivered, {"video": video.name})


def report(results: Path, manifest: Path, status: Path, page: Path, parts: Path | None = None) -> None:
    states = read_states(results, read_manifest(manifest))
    _write(status, "".join(f"{state.clip}\t{state.state}\t{state.where}\n" for state in states))
    _write(status.with_name("failed.csv"), "clip,portrait,audio\n")
    _write(page, "<html>the page of the rows</html>")
    if parts:
        _write(parts / "1-1.html", "<html>the part that holds its videos</html>")
