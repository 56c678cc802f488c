"""mux_audio: the deliverable is whole, in place, in step, named and proven; or it is not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from scene import Scene
from test_upscale import write_network

from linker import deliver, loudness, provenance, signing
from linker.config import BackgroundSettings, FinishSettings, LanguageSettings, ProvenanceSettings, UpscaleSettings
from linker.deliver import _refuse_changed, choose_language, mux_audio
from linker.encode import encode
from linker.errors import EnvironmentError, LinkerError
from linker.media import frame_md5, lossless_writer, pcm_md5, probe, read_audio, read_frames, write_wav
from linker.records import read_json, sha256_file, write_json
from linker.upscale import upscale_video

FRAMES = 8
RATE_HZ = 44_100


class Delivery:
    """All that mux_audio reads, below one folder."""

    def __init__(self, root: Path, scene: Scene, settings: FinishSettings) -> None:
        self.root, self.scene, self.settings = root, scene, settings
        self.row: dict[str, Any] = {"clip": "c1", "language": "fr", "title": 'Tête <"b">', "consent_ref": "C-7"}
        upscale_video(scene.generated, scene.crop, root / "upscaled.mkv", UpscaleSettings(), settings)
        seconds = np.arange(round(FRAMES / 25 * RATE_HZ)) / RATE_HZ
        write_wav(root / "own.wav", np.stack([0.3 * np.sin(2 * np.pi * f * seconds) for f in (220, 330)]), RATE_HZ)
        write_json(root / "loudness.json", {"refusal": None, "duration_s": len(seconds) / RATE_HZ})
        write_json(root / "language.json", {"language": "en", "probability": 0.93, "source": "whisper"})
        entry = {"state": "done", "refusal": None, "seconds": 2.5, "key": "ab12", "seed": 3, "weights": "mini"}
        write_json(root / "ledger.json", {"rows": {"c1": entry}})
        self.steadiness: dict[str, Any] = {
            "before": {"background_variance": 4.0, "head_motion": 3.0, "colour_drift": 5.0},
            "after": {"background_variance": 0.4, "head_motion": 3.1, "colour_drift": 0.5}, "curves": {},
        }  # fmt: skip
        self.subtitles: list[Path] = []
        self.marking, self.upscale = ProvenanceSettings(), UpscaleSettings()
        self.video, self.sidecar = root / "videos" / "c1.mp4", root / "videos" / "c1.json"
        self.delivered = root / "clips" / "c1" / "delivered.json"

    @property
    def crop_px(self) -> int:
        return probe(self.root / "upscaled.mkv").video.width

    def run(self) -> dict[str, Any]:
        write_json(self.root / "steadiness.json", self.steadiness)
        mux_audio(
            upscaled=self.root / "upscaled.mkv", portrait=self.scene.portrait, crop=self.scene.crop,
            masks=self.scene.masks, audio=self.root / "own.wav", driver=self.root / "own.wav",
            loudness=self.root / "loudness.json", language=self.root / "language.json", subtitles=self.subtitles,
            steadiness=self.root / "steadiness.json", ledger=self.root / "ledger.json", video=self.video,
            sidecar=self.sidecar, delivered=self.delivered, row=json.dumps(self.row), settings=self.settings,
            background=BackgroundSettings(), upscale=self.upscale, provenance=self.marking,
            listening=LanguageSettings(),
        )  # fmt: skip
        return read_json(self.sidecar)


@pytest.fixture
def delivery(tmp_path: Path) -> Delivery:
    scene = Scene(tmp_path)
    scene.generate(FRAMES, noise=0, drift=0)
    return Delivery(tmp_path, scene, FinishSettings())


def test_the_deliverable_is_what_players_and_clients_need(delivery: Delivery) -> None:
    facts, info = delivery.run(), probe(delivery.video)
    assert (info.video.width, info.video.height) == (320, 400) == tuple(facts["size_px"])
    assert (info.video.codec, info.video.pix_fmt, info.video.fps, info.video.frames) == ("h264", "yuv420p", 25, FRAMES)
    assert (info.audio.codec, info.audio.sample_rate_hz, info.audio.channels) == ("aac", RATE_HZ, 2)
    assert info.audio.language == "fra"
    assert info.metadata["title"] == 'Tête <"b">'
    assert "AI-generated" in info.metadata["comment"]
    head = delivery.video.read_bytes()[:4096]
    assert b"moov" in head  # fast start


def test_the_sound_is_the_rows_own(delivery: Delivery) -> None:
    delivery.run()
    own, _ = read_audio(delivery.root / "own.wav", mono=False)
    heard, rate_hz = read_audio(delivery.video, mono=False)
    assert rate_hz == RATE_HZ
    length = min(own.shape[1], heard.shape[1]) - 2000
    for channel in (0, 1):
        assert np.corrcoef(own[channel, 1000:length], heard[channel, 1000:length])[0, 1] > 0.99


def test_the_sidecar_proves_what_was_delivered(delivery: Delivery) -> None:
    facts = delivery.run()
    assert facts["frame_md5"] == frame_md5(delivery.video)
    assert facts["pcm_md5"] == pcm_md5(delivery.video)
    assert facts["video_sha256"] == sha256_file(delivery.video)
    assert facts["inputs"]["portrait"]["sha256"] == sha256_file(delivery.scene.portrait)
    assert facts["inputs"]["audio"] == {"file": "own.wav", "sha256": sha256_file(delivery.root / "own.wav")}
    assert facts["generation"]["seed"] == 3
    assert (facts["consent_ref"], facts["frames"], facts["language"]) == ("C-7", FRAMES, "fr")
    assert {check["state"] for check in facts["checks"]} == {"pass", "not applicable"}
    assert {"linker", "torch", "diffusers", "av"} <= set(facts["versions"])
    assert read_json(delivery.delivered) == {"video": "c1.mp4", "master": ""}


def test_what_stabilising_did_is_judged_and_told(delivery: Delivery) -> None:
    names = ("background stabilised, share of its variance left", "head's motion, share of the generated one",
             "background's drift of colour, levels")  # fmt: skip

    def judged() -> list[tuple[str, Any]]:
        found = {check["name"]: (check["state"], check["value"]) for check in delivery.run()["checks"]}
        return [found[name] for name in names]

    assert judged() == [("pass", 0.1), ("pass", 1.033), ("pass", 0.5)]
    delivery.steadiness["after"] = {"background_variance": 2.0, "head_motion": 2.0, "colour_drift": 9.0}
    assert judged() == [("warn", 0.5), ("warn", 0.667), ("warn", 9.0)]
    delivery.steadiness["before"] = {"background_variance": 0.01, "head_motion": 0.0, "colour_drift": 0.0}
    assert [state for state, _ in judged()][:2] == ["not applicable"] * 2
    assert read_json(delivery.sidecar)["steadiness"] == delivery.steadiness


def test_the_same_inputs_give_the_same_bytes(delivery: Delivery) -> None:
    assert delivery.run() == delivery.run()


def test_only_the_head_moves_in_the_portrait(delivery: Delivery) -> None:
    delivery.run()
    frames = np.stack(list(read_frames(delivery.video))).astype(np.float32)
    portrait = np.asarray(Image.open(delivery.scene.portrait), np.float32)
    x0, y0, x1, y1 = delivery.scene.box
    outside = np.ones(portrait.shape[:2], bool)
    outside[y0 + 12 : y1 - 12, x0 + 12 : x1 - 12] = False
    assert np.abs(frames - portrait)[:, outside].mean() < 2.5  # what H.264 changes
    inside = np.s_[:, y0 + 70 : y1 - 70, x0 + 70 : x1 - 70]
    assert frames[inside].std(axis=0).mean() > 2
    border = np.abs(np.diff(frames[:, y0 : y0 + 20, x0 - 12 : x0 + 12].mean(axis=(0, 1)), axis=0))
    assert border.max() < 12  # no box around the crop


def test_the_crop_alone(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.generate(FRAMES)
    facts = Delivery(tmp_path, scene, FinishSettings(layout="crop", max_side_px=128)).run()
    assert facts["size_px"] == [128, 128]


def test_sound_and_picture_end_together_whatever_the_sound(delivery: Delivery) -> None:
    for samples in (FRAMES * 1764 - 800, FRAMES * 1764 + 800):  # rounds to the same number of frames
        tone = 0.2 * np.sin(np.arange(samples) / 30).astype(np.float32)
        write_wav(delivery.root / "own.wav", tone, RATE_HZ)
        write_json(delivery.root / "loudness.json", {"refusal": None, "duration_s": samples / RATE_HZ})
        assert delivery.run()["frames"] == FRAMES


@pytest.mark.parametrize(
    ("wanted", "heard", "tag", "warned"),
    [("", "en", "en", 0), ("", "und", "und", 0), ("fr", "und", "fr", 0), ("fr", "fr", "fr", 0),
     ("pt-BR", "pt", "pt-BR", 0), ("fr", "en", "fr", 1)],
)  # fmt: skip
def test_language(wanted: str, heard: str, tag: str, warned: int) -> None:
    found, warnings = choose_language(wanted, {"language": heard, "probability": None})
    assert (found, len(warnings)) == (tag, warned)


def test_a_disagreement_is_a_warning_in_the_sidecar(delivery: Delivery, capsys: pytest.CaptureFixture[str]) -> None:
    assert delivery.run()["warnings"] == ["the manifest says language fr, the speech sounds like en (probability 0.93)"]
    assert "warning" in capsys.readouterr().err


def _wrong_length(delivery: Delivery) -> None:
    write_json(delivery.root / "loudness.json", {"refusal": None, "duration_s": 2.0})


def _refused(delivery: Delivery) -> None:
    refusal = {"kind": "no_face", "reason": "no face found", "step": "crop_face"}
    write_json(delivery.scene.crop, {**read_json(delivery.scene.crop), "refusal": refusal})


def _not_generated(delivery: Delivery) -> None:
    write_json(delivery.root / "ledger.json", {"rows": {}})


def _other_portrait(delivery: Delivery) -> None:
    Image.new("RGB", (300, 300)).save(delivery.scene.portrait)


def _other_crop(delivery: Delivery) -> None:
    facts = read_json(delivery.scene.crop)
    write_json(delivery.scene.crop, {**facts, "box_px": [0, 0, 100, 100]})


def _broken_sound(delivery: Delivery) -> None:
    (delivery.root / "own.wav").write_bytes(b"RIFF no wave")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(_wrong_length, "50"), (_refused, "no face found"), (_not_generated, "ledger"), (_other_portrait, "300"),
     (_other_crop, "100 x 100"), (_broken_sound, "own.wav")],
)  # fmt: skip
def test_the_last_good_deliverable_survives_every_fault(delivery: Delivery, spoil: Any, words: str) -> None:
    delivery.run()
    good = [delivery.video.read_bytes(), delivery.sidecar.read_bytes()]
    spoil(delivery)
    with pytest.raises(LinkerError, match=words):
        delivery.run()
    assert [delivery.video.read_bytes(), delivery.sidecar.read_bytes()] == good
    assert sorted(path.name for path in delivery.video.parent.iterdir()) == ["c1.json", "c1.mp4"]


def test_a_failing_check_keeps_the_video_back(delivery: Delivery) -> None:
    delivery.run()
    good = [delivery.video.read_bytes(), delivery.sidecar.read_bytes()]
    with lossless_writer(delivery.root / "upscaled.mkv", *[delivery.crop_px] * 2) as writer:
        for _ in range(FRAMES):
            writer.write(np.random.default_rng(0).integers(0, 256, (delivery.crop_px, delivery.crop_px, 3), np.uint8))
    with pytest.raises(LinkerError, match=r"stays in draft/: face in every picture"):
        delivery.run()
    assert [delivery.video.read_bytes(), delivery.sidecar.read_bytes()] == good
    held = read_json(delivery.root / "draft" / "c1.json")
    assert [check["name"] for check in held["checks"] if check["state"] == "fail"] == [
        "face in every picture, least likeness"
    ]
    assert probe(delivery.root / "draft" / "c1.mp4").video is not None

    delivery.settings = FinishSettings(failed_checks="deliver")
    assert any(check["state"] == "fail" for check in delivery.run()["checks"])
    assert not list((delivery.root / "draft").iterdir())


def test_another_frame_rate_aspect_loudness_and_a_master(delivery: Delivery) -> None:
    delivery.settings = FinishSettings(
        aspect="9x16", side_px=320, fps=30, loudness_lufs=-23, master="ffv1", label="AI", audio_codec="opus"
    )
    delivery.marking = ProvenanceSettings(test_key=True, producer="Studio & Co")
    upscale_video(delivery.scene.generated, delivery.scene.crop, delivery.root / "upscaled.mkv", UpscaleSettings(),
                  delivery.settings)  # fmt: skip
    tone = np.random.default_rng(1).normal(0, 0.05, round(FRAMES / 25 * 48_000)).astype(np.float32)
    write_wav(delivery.root / "own.wav", tone, 48_000)
    (delivery.root / "a.srt").write_text("1\n00:00:00,000 --> 00:00:09,000\nBonjour\n")
    delivery.subtitles = [delivery.root / "a.srt"]
    facts, info = delivery.run(), probe(delivery.video)
    assert info.video is not None
    assert (info.video.width, info.video.height, info.video.fps, facts["frames"]) == (180, 320, 30, 10)
    assert {check["name"]: check["state"] for check in facts["checks"] if check["state"] == "fail"} == {}
    states = {check["name"]: (check["state"], check["value"]) for check in facts["checks"]}
    assert states["mark C2PA"] == ("pass", "Valid")
    assert states["subtitle tracks"] == ("pass", ["fra"])
    assert "TEST KEY" in facts["signer"]
    assert facts["marks"]["producer"] == "Studio & Co"
    assert facts["marks"]["consent_ref"] == "C-7"
    master = delivery.root / "masters" / "c1.mkv"
    assert states["master: codec"] == ("pass", ["ffv1", "bgr0"])
    assert states["master: colour tags, matrix primaries transfer range"] == ("pass", [0, 1, 1, 2])
    assert states["master: language tag"] == ("pass", "fra")
    assert states["master: sound late or early, ms"] == ("pass", 0.0)
    assert states["master: loudness, LUFS"][0] in ("pass", "not applicable")
    assert facts["master"] == master.name
    frames = np.stack(list(read_frames(master)))
    assert (
        np.abs(frames[:, 10:20, 150:170].astype(int) - frames[0, 10:20, 150:170]).max() == 0
    )  # the label stands still
    assert not list((delivery.root / "draft").iterdir())


def test_a_key_that_does_not_fit_is_the_machines_fault(delivery: Delivery, tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_bytes(signing.test_identity().certificates)
    (tmp_path / "k.pem").write_text("no key")
    delivery.marking = ProvenanceSettings(certificate=str(tmp_path / "c.pem"), private_key=str(tmp_path / "k.pem"))
    with pytest.raises(EnvironmentError, match="needed PEM files"):
        delivery.run()
    delivery.marking = ProvenanceSettings(certificate=str(tmp_path / "c.pem"))
    with pytest.raises(EnvironmentError, match="belong together"):
        delivery.run()
    assert not delivery.video.exists()


def test_the_users_own_key_signs(delivery: Delivery, tmp_path: Path) -> None:
    identity = signing.test_identity()
    (tmp_path / "c.pem").write_bytes(identity.certificates)
    (tmp_path / "k.pem").write_bytes(identity.private_key)
    delivery.marking = ProvenanceSettings(certificate=str(tmp_path / "c.pem"), private_key=str(tmp_path / "k.pem"))
    assert {c["name"]: c["state"] for c in delivery.run()["checks"]}["mark C2PA"] == "pass"
    assert "PRIVATE KEY" not in delivery.sidecar.read_text()
    assert "k.pem" not in delivery.sidecar.read_text()


def muffled(rng: np.random.Generator, channels: int, samples: int) -> np.ndarray:
    """Noise without the heights that AAC leaves out."""
    return cv2.GaussianBlur(rng.normal(0, 0.2, (channels, samples)).astype(np.float32), (31, 1), 3.0)


def test_surround_sound_is_mixed_and_still_the_rows_own(delivery: Delivery) -> None:
    rng, seconds = np.random.default_rng(2), 2.0
    frames = round(seconds * 25)
    write_wav(delivery.root / "own.wav", muffled(rng, 6, round(seconds * 48_000)), 48_000)
    write_json(delivery.root / "loudness.json", {"refusal": None, "duration_s": seconds})
    delivery.scene.generate(frames, noise=0, drift=0)
    upscale_video(delivery.scene.generated, delivery.scene.crop, delivery.root / "upscaled.mkv", UpscaleSettings(),
                  delivery.settings)  # fmt: skip
    states = {check["name"]: (check["state"], check["value"]) for check in delivery.run()["checks"]}
    assert states["the row's own sound, correlation"][0] == "pass"
    assert states["sound late or early, ms"] == ("pass", 0.0)
    assert states["loudness, LUFS"][0] == "pass"
    info = probe(delivery.video).audio
    assert info is not None
    assert info.channels == 2


def test_surround_sound_is_mixed_before_it_is_levelled(delivery: Delivery) -> None:
    """The mix of six channels is louder, or softer, than they are: the ordered loudness is that of what is heard."""
    rng, seconds = np.random.default_rng(2), 1.2
    six = np.zeros((6, round(seconds * 48_000)), np.float32)
    six[2] = muffled(rng, 1, six.shape[1])  # the voice alone in the middle: three decibels are lost on the way
    write_wav(delivery.root / "own.wav", six, 48_000)
    write_json(delivery.root / "loudness.json", {"refusal": None, "duration_s": seconds})
    delivery.scene.generate(round(seconds * 25), noise=0, drift=0)
    delivery.settings = FinishSettings(loudness_lufs=-23, max_side_px=128, master="prores")
    upscale_video(delivery.scene.generated, delivery.scene.crop, delivery.root / "upscaled.mkv", UpscaleSettings(),
                  delivery.settings)  # fmt: skip
    checks = {check["name"]: check for check in delivery.run()["checks"]}
    for name in ("loudness, LUFS", "master: loudness, LUFS"):
        assert checks[name]["state"] == "pass"
        assert checks[name]["value"] == pytest.approx(-23, abs=0.5)
    assert {check["state"] for check in checks.values()} <= {"pass", "not applicable", "warn"}
    assert checks["master: codec"]["value"] == ["prores", "yuv422p10le"]


def test_what_is_needed_meanwhile_lies_in_the_results(delivery: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound in float is gigabytes for an hour, and what libraries put into $TMPDIR may be, too; nothing of it stays."""
    seen: list[Path] = []
    level, mark, before = loudness.level, provenance.mark, os.environ.get("TMPDIR", tempfile.gettempdir())

    def look_at_level(path: Path, levelled: Path, *words: Any) -> Any:
        seen.append(levelled.parent)
        return level(path, levelled, *words)

    def look_at_mark(*words: Any) -> None:
        seen.append(Path(os.environ["TMPDIR"]))
        mark(*words)

    monkeypatch.setattr(loudness, "level", look_at_level)
    monkeypatch.setattr(provenance, "mark", look_at_mark)
    delivery.settings = FinishSettings(loudness_lufs=-23)
    delivery.run()
    assert [path.parent for path in seen] == [delivery.root / ".linker" / "tmp"] * 2
    assert not list((delivery.root / ".linker" / "tmp").iterdir())
    assert os.environ["TMPDIR"] == before


def test_a_faulty_master_holds_its_video_back(delivery: Delivery, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery.settings = FinishSettings(master="ffv1")
    own, rate_hz = read_audio(delivery.root / "own.wav", mono=False)
    write_wav(delivery.root / "late.wav", np.roll(own * np.linspace(0.2, 1, own.shape[1]), 4000, axis=1), rate_hz)

    def late(frames: Any, targets: list[Any], audio: Path, count: int) -> None:
        pictures = list(frames)
        encode(pictures, targets[:1], audio, count)
        encode(pictures, [replace(targets[1], language="de")], delivery.root / "late.wav", count)

    monkeypatch.setattr(deliver, "encode", late)
    with pytest.raises(
        LinkerError, match=r"master: language tag: found deu, needed fra; .*master: sound late or early"
    ):
        delivery.run()
    assert not delivery.video.exists()


def test_marks_and_sidecar_tell_what_the_pictures_went_through(delivery: Delivery, tmp_path: Path) -> None:
    weights = write_network(tmp_path / "net.pth")
    before = delivery.run()["marks"]
    assert "upscaler_sha256" not in before
    delivery.upscale = UpscaleSettings(weights=str(weights))
    facts = delivery.run()
    assert facts["marks"]["upscaler_sha256"] == sha256_file(weights) == facts["upscale"]["weights_sha256"]
    assert (facts["upscale"]["weights"], facts["background"]["follow"]) == ("net.pth", 0.15)
    assert facts["marks"]["settings_sha256"] != before["settings_sha256"]
    assert str(tmp_path) not in delivery.sidecar.read_text()
    used = json.dumps({name: facts[name] for name in ("background", "upscale", "finish")}, sort_keys=True,
                      ensure_ascii=False, separators=(",", ":"))  # fmt: skip
    assert facts["marks"]["settings_sha256"] == hashlib.sha256(used.encode()).hexdigest()
    told = json.dumps(facts["marks"], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    label = json.loads(provenance.read_marks(delivery.video).aigc)
    assert label["ReservedCode1"] == f"sha256:{hashlib.sha256(told.encode()).hexdigest()}"
    assert f"<ll:upscaler_sha256>{sha256_file(weights)}<" in provenance.read_marks(delivery.video).xmp


def test_an_unmarked_video_is_held_whatever_the_settings_say(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "mark", lambda *_: None)
    delivery.settings = FinishSettings(failed_checks="deliver")
    with pytest.raises(LinkerError, match="mark XMP"):
        delivery.run()
    assert not delivery.video.exists()
    assert not delivery.delivered.exists()


def test_a_file_that_was_replaced_while_its_row_was_processed_is_noticed() -> None:
    inputs = {"portrait": {"file": "p.png", "sha256": "b"}}
    _refuse_changed(inputs, {"portrait": {"source_sha256": "b"}})
    with pytest.raises(LinkerError, match=r"p\.png: the portrait was replaced"):
        _refuse_changed(inputs, {"portrait": {"source_sha256": "a"}})
