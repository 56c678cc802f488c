"""mux_audio: the finished crop back in its portrait, with the row's own sound, marked, and checked first."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from linker import __version__, loudness, provenance, subtitles
from linker.checks import FAIL, NONE, PASS, Check, Ordered, equal, failed, run_checks, steadied, track_checks
from linker.config import FPS, BackgroundSettings, FinishSettings, LanguageSettings, ProvenanceSettings, UpscaleSettings
from linker.encode import Target, encode, sound_info
from linker.errors import LinkerError
from linker.formats import MASTERS, PICTURES, SOUNDS, frame_count, is_copied, sound_codec
from linker.iso639 import three_letters
from linker.measure import DARK_LUMA, Measured, Sound, envelope, luma_of, measure, sound_of
from linker.mux import Cue
from linker.paste import Scenery, places, set_scene, shown_frames
from linker.records import Refusal, read_json, sha256_file, write_json
from linker.signing import CARRIERS, Identity, load_identity
from linker.tidy import scratch

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless", "opencv-contrib-python", "av",
            "spandrel", "c2pa-python")  # fmt: skip
PLOT_POINTS = 600  # of the curves in the sidecar, however long the clip
MARK = "mark "  # in the names of checks that no setting overrules
WINDOW = 12  # pictures generated at once (section 4.1), where the ledger does not say


@dataclass(frozen=True)
class Job:
    """Everything that is known before the first frame: the row, its files, and what was decided about them.

    `audio` is the row's own file; `sound` is what is heard of it: itself, or its mix to two channels.
    """

    row: dict[str, Any]
    entry: dict[str, Any]
    audio: Path
    sound: Path
    heard: dict[str, Any]
    scene: Scenery
    language: str
    cues: tuple[Cue, ...]
    facts: dict[str, str]
    ingredients: list[Path]
    identity: Identity | None
    settings: FinishSettings

    @property
    def clip(self) -> str:
        return str(self.row["clip"])

    @property
    def title(self) -> str:
        return str(self.row.get("title") or self.clip)

    @property
    def frames(self) -> int:
        """Pictures of the deliverable."""
        return frame_count(self.heard["duration_s"], self.settings.fps)


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
    """Write the deliverable `video` (and its master), then `sidecar` (provenance and checks), then `delivered`, a note.

    `row` is the row as JSON: clip, and language, title, consent_ref, licence_ref where given; `steadiness` is what
    stabilize_background measured; `background` and `upscale` are told, as what the pictures went through before.
    Everything is made in draft/, beside the folder of `video`, and stays there when a check fails: then LinkerError is
    raised, and a deliverable that was there before is as it was.
    """
    fields, steady = json.loads(row), read_json(steadiness)
    heard, box, identity = read_json(loudness), read_json(crop), load_identity(provenance)
    entry = _done_entry(fields["clip"], read_json(ledger), heard, box)
    tag, warnings = choose_language(fields.get("language") or "", read_json(language))
    scene = set_scene(portrait, box, masks, settings)
    cues = _cues(subtitles, driver, heard["duration_s"], tag, settings, listening)
    inputs = {"portrait": _input(portrait), "audio": _input(audio)}
    _refuse_changed(inputs, {"portrait": box, "audio": heard})
    used = _used(background, upscale, settings)
    facts = _facts(fields, entry, inputs, used, provenance)
    with scratch(video.parent.parent) as folder:
        try:
            sound = _two_channels(audio, settings, folder / "mixed.wav")
            job = Job(
                fields, entry, audio, sound, heard, scene, tag, cues, facts, [portrait, audio], identity, settings
            )
            drafts = _make(job, upscaled, video, folder)
            found, checks = _examine(job, drafts)
        except ValueError as error:  # a wrong number of frames, a sound file that changed since it was prepared
            raise LinkerError(f"{fields['clip']}: cannot be encoded: {error}") from error
    checks += steadied(steady)
    for warning in warnings:
        print(f"{job.clip}: warning: {warning}", file=sys.stderr)
    told = {
        "clip": job.clip, "title": fields.get("title", ""), "video": video.name,
        "master": drafts[1].name if len(drafts) > 1 else "", "size_px": list(scene.canvas.size), "fps": settings.fps,
        "frames": job.frames, "duration_s": job.frames / settings.fps, "language": tag, "warnings": warnings,
        "checks": [check.to_json() for check in checks], **_measured_facts(found, drafts[0]), "inputs": inputs,
        "consent_ref": fields.get("consent_ref", ""), "licence_ref": fields.get("licence_ref", ""), "marks": facts,
        "signer": provenance_signer(drafts[0]) if identity else "", "generation": entry,
        **used, "versions": versions(), "curves": _curves(found, settings.fps), "steadiness": steady,
    }  # fmt: skip
    _publish(job, drafts, video, sidecar, told, checks)
    write_json(delivered, {"video": video.name, "master": told["master"]})


def _publish(
    job: Job, drafts: list[Path], video: Path, sidecar: Path, told: dict[str, Any], checks: list[Check]
) -> None:
    """Move what passed to where people look for it; leave in draft/ what did not, and what lacks a mark whatever the
    settings say."""
    held = drafts[0].with_name(sidecar.name)
    if bad := failed(checks):
        found = "; ".join(f"{check.name}: found {_brief(check.value)}, needed {_brief(check.limit)}" for check in bad)
        if job.settings.failed_checks == "hold" or any(MARK in check.name for check in bad):
            write_json(held, told)
            raise LinkerError(f"{job.clip}: the finished video failed its checks and stays in draft/: {found}")
        print(f"{job.clip}: warning: delivered although checks failed: {found}", file=sys.stderr)
    for draft, place in zip(drafts, (video, _master_place(video, job.settings)), strict=False):
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft, place)
    write_json(sidecar, told)
    held.unlink(missing_ok=True)


def _brief(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


def _master_place(video: Path, settings: FinishSettings) -> Path:
    """masters/, beside videos/."""
    suffix = MASTERS.get(settings.master, "")
    return video.parent.parent / "masters" / f"{video.stem}.{suffix}"


def _make(job: Job, upscaled: Path, video: Path, scratch: Path) -> list[Path]:
    """Encode and mark the deliverable, and its master where one is wanted, in draft/; their paths."""
    folder = video.parent.parent / "draft"
    settings, size = job.settings, job.scene.canvas.size
    source_count = frame_count(job.heard["duration_s"])
    audio = _levelled(job, scratch / "levelled.wav")
    drafts = [folder / video.name]
    sound = "copy" if _copied(job.audio, settings) else sound_codec(settings)
    targets = [Target(drafts[0], size, settings.codec, settings.crf, settings.fps, sound, settings.audio_kbps,
                      job.language, provenance.tags(drafts[0], job.title, job.facts), job.cues)]  # fmt: skip
    if settings.master != "none":
        drafts.append(folder / _master_place(video, settings).name)
        targets.append(Target(drafts[1], size, settings.master, None, settings.fps, "pcm", language=job.language,
                              metadata=provenance.tags(drafts[1], job.title, job.facts)))  # fmt: skip
    encode(shown_frames(upscaled, job.scene, source_count, job.frames), targets, audio, job.frames)
    for draft in drafts:
        provenance.mark(draft, job.title, job.facts, job.ingredients, job.identity)
    return drafts


def _copied(audio: Path, settings: FinishSettings) -> bool:
    """True when the row's own sound goes in as it is; the clock of such a track begins at 0."""
    return is_copied(sound_info(audio).codec, settings) and sound_info(audio).start_s <= 0


def _two_channels(audio: Path, settings: FinishSettings, mixed: Path) -> Path:
    """The row's own sound; surround sound that is to be encoded is mixed down before its loudness is looked at, as the
    mix has a loudness of its own."""
    info = sound_info(audio)
    if info.channels <= 2 or _copied(audio, settings):
        return audio
    loudness.mix_down(audio, mixed, info.sample_rate_hz)
    return mixed


def _levelled(job: Job, scratch: Path) -> Path:
    """The row's sound, or a copy of it at the wanted loudness."""
    if job.settings.loudness_lufs == "as_is":
        return job.sound
    loudness.level(job.sound, scratch, job.settings.loudness_lufs, sound_info(job.sound).sample_rate_hz)
    return scratch


def _cues(
    given: list[Path], driver: Path, duration_s: float, tag: str, settings: FinishSettings, listening: LanguageSettings
) -> tuple[Cue, ...]:
    """Subtitles that end with the pictures: the user's, else whisper's where that is wanted."""
    if not given and not settings.transcribe:
        return ()
    cues = subtitles.read_srt(given[0]) if given else subtitles.transcribe(driver, listening.whisper, tag)
    return tuple(subtitles.until(cues, duration_s))


def _used(
    background: BackgroundSettings, upscale: UpscaleSettings, finish: FinishSettings
) -> dict[str, dict[str, Any]]:
    """The settings that made these pictures out of the generated ones, files by name, and the upscaler's hash."""
    groups = {"background": background, "upscale": upscale, "finish": finish}
    told: dict[str, dict[str, Any]] = {name: group.model_dump(mode="json") for name, group in groups.items()}
    told["upscale"]["weights_sha256"] = sha256_file(Path(upscale.weights)) if upscale.weights else ""
    told["upscale"]["weights"] = Path(upscale.weights).name
    told["finish"]["label_font"] = Path(finish.label_font).name
    return told


def _facts(
    fields: dict[str, Any],
    entry: dict[str, Any],
    inputs: dict[str, dict[str, str]],
    used: dict[str, dict[str, Any]],
    marking: ProvenanceSettings,
) -> dict[str, str]:
    """What all marks tell; the settings by the hash of their JSON as the sidecar has it (keys sorted, no spaces)."""
    hashes = {name: source["sha256"] for name, source in inputs.items()}
    settings = json.dumps(used, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    hashes["settings"] = hashlib.sha256(settings.encode()).hexdigest()
    hashes["upscaler"] = used["upscale"]["weights_sha256"]
    return provenance.facts_of(fields, entry, hashes, marking.producer)


def _examine(job: Job, drafts: list[Path]) -> tuple[Measured, list[Check]]:
    """Decode what was written, and judge it; the deliverable's measurements and all checks."""
    looked = places(job.scene)
    found = measure(drafts[0], looked)
    checks = run_checks(found, _ordered(job, drafts[0], looked.still)) + mark_checks(drafts[0], job)
    for master in drafts[1:]:
        judged = track_checks(measure(master, looked), _ordered_master(job, master, looked.still))
        checks += [replace(check, name=f"master: {check.name}") for check in [*judged, *mark_checks(master, job)]]
    return found, checks


def _ordered(job: Job, draft: Path, still: np.ndarray) -> Ordered:
    codec, settings = PICTURES[job.settings.codec], job.settings
    copied, source = _copied(job.audio, settings), _source(job.sound)
    anchored = [window * job.entry.get("window", WINDOW) / FPS for window in job.entry.get("anchored", [])]
    return Ordered(
        frames=job.frames, fps=settings.fps, size=job.scene.canvas.size, codec=codec.decoded, pix_fmt=codec.pix_fmt,
        colours=codec.colours, is_mp4=draft.suffix in CARRIERS,
        sound_codec=source.codec if copied else sound_codec(settings),
        language=three_letters(job.language), subtitles=bool(job.cues),
        loudness_lufs=None if settings.loudness_lufs == "as_is" else settings.loudness_lufs, source=source,
        speech=job.heard.get("speech", []), still_dark=float((luma_of(still) < DARK_LUMA).mean()),
        mouth_scale=_mouth_asked(job.entry), window=job.entry.get("window", WINDOW),
        anchored_s=tuple(anchored),
    )  # fmt: skip


def _mouth_asked(entry: dict[str, Any]) -> float:
    """How much the mouth was to move: its scale, less where its range is small."""
    return float(entry.get("scales", [1, 1, 1])[1]) * min(float(entry.get("ranges", [1, 1, 1])[1]), 1.0)


def _ordered_master(job: Job, master: Path, still: np.ndarray) -> Ordered:
    """The same clip in the master's codecs; its sound is PCM of at most two channels, and it has no subtitles."""
    codec, is_surround = PICTURES[job.settings.master], sound_info(job.sound).channels > 2
    wanted = _ordered(job, master, still)
    return replace(
        wanted, codec=codec.decoded, pix_fmt=codec.pix_fmt, colours=codec.colours, subtitles=False,
        sound_codec=SOUNDS["pcm"].encoder, source=_source(job.sound, "stereo") if is_surround else wanted.source,
    )  # fmt: skip


def _source(sound: Path, layout: str | None = None) -> Sound:
    """What the deliverable's sound is held against."""
    if found := sound_of(sound, layout):
        return found
    raise LinkerError(f"{sound}: holds no sound track any more; run normalize_audio again")


def mark_checks(path: Path, job: Job) -> list[Check]:
    """XMP and AIGC must be there; C2PA where a key is configured and the container carries it."""
    found = provenance.read_marks(path)
    xmp = found.xmp == provenance.xmp_packet(job.title, job.facts)
    aigc = found.aigc == provenance.aigc_label(job.facts)
    checks = [equal("mark XMP", "as written" if xmp else "missing or changed", "as written"),
              equal("mark AIGC", "as written" if aigc else "missing or changed", "as written")]  # fmt: skip
    if path.suffix not in CARRIERS:
        return [*checks, Check("mark C2PA", NONE, None, "valid", "Matroska cannot carry it; XMP and AIGC are tags")]
    if job.identity is None:
        return [
            *checks,
            Check("mark C2PA", NONE, None, "valid", "no signing key; set provenance.certificate and its key"),
        ]
    fault = provenance.c2pa_fault(found.c2pa, job.facts, [source.name for source in job.ingredients])
    return [*checks, Check("mark C2PA", FAIL if fault else PASS, fault or found.c2pa["state"], "valid",
                           f"signed by {found.c2pa['signer']}")]  # fmt: skip


def provenance_signer(path: Path) -> str:
    """Who signed a file, as its certificate says."""
    return str(provenance.read_marks(path).c2pa["signer"])


def _measured_facts(found: Measured, draft: Path) -> dict[str, Any]:
    """Hashes of what was decoded and of the file; the sound's loudness."""
    pictures, sound = found.pictures, found.sound
    level = sound.loudness if sound else None
    return {
        "frame_md5": pictures.frame_md5 if pictures else "",
        "pcm_md5": sound.pcm_md5 if sound else "",
        "video_sha256": sha256_file(draft),
        "loudness": {name: round(value, 1) for name, value in vars(level).items() if np.isfinite(value)}
        if level
        else {},
    }


def _curves(found: Measured, fps: int) -> dict[str, Any]:
    """Mouth and sound by time for the report's plot, at most PLOT_POINTS of each: peaks of pieces of equal length."""
    if found.pictures is None or found.sound is None or not len(found.pictures.curves.mouth):
        return {}
    mouth = found.pictures.curves.mouth
    level = envelope(found.sound.samples, found.pictures.curves.time_s, fps)
    piece = -(-len(mouth) // PLOT_POINTS)
    wave = [float(np.abs(part).max()) for part in np.array_split(found.sound.samples, -(-len(mouth) // piece))]

    def thinned(curve: np.ndarray) -> list[float]:
        return [round(float(curve[start : start + piece].mean()), 4) for start in range(0, len(curve), piece)]

    return {
        "step_s": piece / fps,
        "mouth": thinned(mouth),
        "level": thinned(level),
        "wave": [round(x, 3) for x in wave],
    }


def choose_language(wanted: str, detected: dict[str, Any]) -> tuple[str, list[str]]:
    """BCP-47 tag of the sound track and warnings: the manifest's word wins over what was heard (language.json)."""
    heard = detected["language"]
    if not wanted:
        return heard, []
    if heard == "und" or heard.split("-")[0].lower() == wanted.split("-")[0].lower():
        return wanted, []
    sure = f" (probability {detected['probability']:.2f})" if detected.get("probability") is not None else ""
    return wanted, [f"the manifest says language {wanted}, the speech sounds like {heard}{sure}"]


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


def _refuse_changed(inputs: dict[str, dict[str, str]], prepared: dict[str, dict[str, Any]]) -> None:
    """Raises LinkerError where a file is no more the one that was prepared: the mouth would move in another picture."""
    for name, told in inputs.items():
        if prepared[name].get("source_sha256", told["sha256"]) != told["sha256"]:
            raise LinkerError(f"{told['file']}: the {name} was replaced while the row was processed; run again")


def _input(path: Path) -> dict[str, str]:
    return {"file": path.name, "sha256": sha256_file(path)}
