"""Portraits of a folder become faces of training videos; what has no face is named and skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linker.config import TrainSettings
from linker.errors import EnvironmentError
from linker.records import read_json
from linker.synth.motion import rest
from linker.synth.portrait import draw_portrait
from linker.synth.video import make_video, still_of
from linker.train import steps
from linker.train.stills import VIDEO_PX, find_stills, read_stills


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A face, a picture without one, a text that says it is a picture, and a text."""
    pictures = tmp_path / "portraits"
    pictures.mkdir()
    Image.fromarray(draw_portrait(3, "photo", 384).render(rest(1))[0]).save(pictures / "anna.png")
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(pictures / "grey.jpg")
    (pictures / "fake.png").write_text("not a picture")
    (pictures / "notes.txt").write_text("whose portraits these are")
    return pictures


def test_faces_are_kept_and_the_others_named(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    found = read_stills(folder, tmp_path / "cache")
    assert len(found.faces) == 1
    assert sorted(line.split(":")[0] for line in found.skipped) == ["fake.png", "grey.jpg"]
    assert read_stills(folder, tmp_path / "cache").digest == found.digest
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_two_of_five_videos_set_a_still_in_motion(folder: Path, tmp_path: Path) -> None:
    faces = read_stills(folder, tmp_path / "cache").faces
    kinds = [still_of(seed, faces * 4) is not None for seed in range(0, 5_000_000, 100_000)]
    assert 0.2 < np.mean(kinds) < 0.6
    assert 0.05 < np.mean([still_of(seed, faces) is not None for seed in range(1000)]) < 0.15
    seed = kinds.index(True) * 100_000
    video, again = (make_video(seed, 256, (0.6, 0.7), still=still_of(seed, faces * 4)) for _ in range(2))
    assert video.style == "still"
    assert np.array_equal(video.frames, again.frames)
    assert video.frames.shape[1:] == (256, 256, 3)
    assert video.masks.shape[1:] == (3, 16, 16)


def test_where_no_folder_is_named_a_photograph_of_a_package_is_found(folder: Path, tmp_path: Path) -> None:
    found = find_stills(TrainSettings(), tmp_path / "cache")
    assert found.faces[0].render(rest(1)).shape[1:] == (VIDEO_PX, VIDEO_PX, 3)
    assert find_stills(TrainSettings(), tmp_path / "cache").digest == found.digest
    assert find_stills(TrainSettings(stills=str(folder)), tmp_path / "cache").digest not in ("", found.digest)


def test_a_folder_without_faces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EnvironmentError, match="no picture with one face"):
        read_stills(tmp_path / "empty", tmp_path / "cache")
    with pytest.raises(EnvironmentError, match="found no folder"):
        read_stills(tmp_path / "none", tmp_path / "cache")


def test_videos_of_other_stills_are_drawn_anew(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "draw_range", lambda part, count, seed, stills, processes: (part / "000000.npz").touch())
    videos, drawn = tmp_path / "videos" / "videos.json", tmp_path / "videos" / "000000.npz"
    drawn.parent.mkdir()
    (tmp_path / "encoded" / "held_out").mkdir(parents=True)
    steps.draw_videos(videos, TrainSettings(videos=4))
    drawn.write_text("drawn")
    steps.draw_videos(videos, TrainSettings(videos=4))
    assert drawn.read_text() == "drawn"
    steps.draw_videos(videos, TrainSettings(videos=4, stills=str(folder)))
    assert drawn.read_text() == ""
    assert read_json(videos)["stills"] == 1
