"""verify: tells exactly what differs from what was recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film import film

from linker import verify
from linker.cli import main
from linker.config import Settings, UpscaleSettings
from linker.errors import EnvironmentError
from linker.manifest import read_manifest
from linker.media import frame_md5, pcm_md5, write_wav
from linker.records import Row, read_json, sha256_file, write_json
from linker.run import Order
from linker.verify import verify_folder


def deliver(video: Path, audio: Path, level: int) -> None:
    """A quarter of a second of grey with sound."""
    frames = (np.full((32, 32, 3), level, np.uint8) for _ in range(6))
    film(video, frames, 6, audio, size=(32, 32))


def recorded_of(video: Path, torch: str) -> dict[str, Any]:
    told: dict[str, Any] = {"video": video.name, "frame_md5": frame_md5(video), "pcm_md5": pcm_md5(video)}
    sampling = {"steps": 3, "guidance_scale": 1.5, "sampler": "unipc", "background_strength": 0.5}
    made = {"seed": 7, "scales": [1.0, 0.5, 1.0], "ranges": [1.0, 1.0, 0.8], "sampling": sampling, "rows_together": 2}
    made |= {"dtype": "float32", "decoder": "codec", "compile": False}
    return {**told, "finish": {"crf": 21}, "generation": made, "versions": {"torch": torch}}


@pytest.fixture
def results(tmp_path: Path, write_manifest: Callable[..., Path]) -> Path:
    """A results folder with one deliverable that is as recorded."""
    manifest = write_manifest("clip,portrait,audio,seed,scale_mouth,preset\na,p.png,a.wav,,2,draft\n")
    write_wav(tmp_path / "a.wav", np.sin(np.arange(3840) / 9).astype(np.float32) / 4, 16_000)
    folder = tmp_path / "out"
    (folder / "videos").mkdir(parents=True)
    settings = "finish: {crf: 30}\ngenerate: {steps: 9, seed: 8}\n"
    (folder / "settings.yaml").write_text(f"manifest: {manifest}\n{settings}")
    video = folder / "videos" / "a.mp4"
    deliver(video, tmp_path / "a.wav", 90)
    inputs = {"portrait": tmp_path / "p.png", "audio": tmp_path / "a.wav"}
    recorded = recorded_of(video, torch="2.0.1")
    recorded["inputs"] = {name: {"file": path.name, "sha256": sha256_file(path)} for name, path in inputs.items()}
    write_json(video.with_suffix(".json"), recorded)
    return folder


ORDERS: list[Row] = []


@pytest.fixture(autouse=True)
def made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """In place of the workflow: a clip made again, of one row, in a folder of its own. {"level": grey, "code": exit}"""
    how = {"level": 90, "code": 0, "cluster": "debug"}
    ORDERS.clear()

    def run(order: Order, rows: int) -> int:
        [row] = read_manifest(order.manifest).rows
        assert rows == 1
        ORDERS.append(row)
        generate = order.settings.generate
        assert (order.settings.launch.cluster, order.settings.finish.crf) == (how["cluster"], 21)
        assert (generate.steps, generate.sampler, generate.dtype, generate.rows_together) == (3, "unipc", "float32", 2)
        assert (tmp_path in order.results.parents) == (how["cluster"] == "slurm")
        (order.results / "videos").mkdir(parents=True)
        video = order.results / "videos" / f"{row.clip}.mp4"
        deliver(video, row.audio, how["level"])
        write_json(video.with_suffix(".json"), recorded_of(video, torch="2.13.0"))
        return how["code"]

    monkeypatch.setattr(verify, "run_workflow", run)
    return how


def test_what_is_as_recorded_passes(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_folder(results) == 0
    assert capsys.readouterr().out == ""


def test_a_clip_is_made_again_from_its_row_and_compared(
    results: Path, made_again: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the sidecar, not by what the manifest and the settings say since; with other frames; or not at all."""
    assert verify_folder(results, "a") == 0
    assert [(row.seed, row.scales, row.ranges) for row in ORDERS] == [(7, (1, 0.5, 1), (1, 1, 0.8))]
    assert "a: made again to compare" in capsys.readouterr().err
    made_again["level"] = 200
    assert verify_folder(results) == 4
    told = capsys.readouterr().out
    assert told.startswith("a: made again: frame_md5 ")
    assert told.endswith("(torch was 2.0.1, is 2.13.0)\n")
    made_again["code"] = 3
    assert verify_folder(results) == 4
    assert capsys.readouterr().out == "a: could not be made again; what was said above tells why\n"


def test_files_that_a_sidecar_names_are_found_where_the_last_run_had_them() -> None:
    last = Settings(upscale=UpscaleSettings(weights="/studio/net.pth"))
    told = {"weights": "net.pth", "weights_sha256": "ab", "tile_px": 64}
    assert verify._as_told("upscale", told, last, Path("a.json")) == UpscaleSettings(
        weights="/studio/net.pth", tile_px=64
    )
    told["weights"] = "other.pth"
    assert verify._as_told("upscale", told, last, Path("a.json")) == UpscaleSettings(weights="other.pth", tile_px=64)


def test_a_clip_is_made_again_where_the_profile_says(results: Path, made_again: dict[str, Any]) -> None:
    """Its folder lies within the results, which all nodes see, and goes when it is done."""
    made_again["cluster"] = "slurm"
    (results / ".linker").mkdir()
    assert main(["verify", str(results), "--profile", "slurm"]) == 0
    assert len(ORDERS) == 1
    assert not list((results / ".linker").iterdir())


def test_a_changed_input_is_told(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.png").write_bytes(b"another portrait")
    assert verify_folder(results) == 4
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"a: portrait {tmp_path / 'p.png'}: SHA-256")


def test_other_pictures_and_other_sound_are_told(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(results / "videos" / "a.mp4", tmp_path / "a.wav", 120)
    assert verify_folder(results) == 4
    assert ["frame_md5" in line for line in capsys.readouterr().out.splitlines()] == [True]
    sidecar = results / "videos" / "a.json"
    write_json(sidecar, {**read_json(sidecar), "frame_md5": frame_md5(sidecar.with_suffix(".mp4")), "pcm_md5": "0"})
    assert verify_folder(results) == 4
    assert ["pcm_md5" in line for line in capsys.readouterr().out.splitlines()] == [True]


def test_a_broken_or_missing_video_is_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = results / "videos" / "a.mp4"
    video.write_bytes(video.read_bytes()[:100])
    assert verify_folder(results) == 4
    video.unlink()
    assert verify_folder(results) == 4
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("content", [b"", b'{"video": "b.m', b"\0\0\0\0", b'{"video": "b.mp4"}'])
def test_a_damaged_sidecar_is_its_videos_fault(
    results: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    """The others are looked at, and one of them is made again."""
    sidecar = results / "videos" / "b.json"
    sidecar.write_bytes(content)
    assert verify_folder(results) == 4
    told = capsys.readouterr()
    assert told.out == f"b: {sidecar}: is damaged; run again to make it and its video once more\n"
    assert "a: made again to compare" in told.err
    assert "1 of 2 clips are as recorded" in told.err


def test_damaged_settings_are_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"", b"manifest: \xc3"):
        (results / "settings.yaml").write_bytes(content)
        assert verify_folder(results) == 0
        assert "inputs are not looked at" in capsys.readouterr().err


def test_a_folder_without_deliverables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentError, match="found no videos"):
        verify_folder(tmp_path)
