"""Small copies: the beginning of a video with its sound and its marks, in a file that any browser plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from film import film

from linker.boxes import append_xmp
from linker.media import Undecodable, probe, read_audio, read_frames, write_wav
from linker.previews import SIDE_PX, write_preview
from linker.provenance import read_marks

TAGS = {"title": "A", "AIGC": '{"Label":"1"}'}


def original(folder: Path, suffix: str = ".mp4", codec: str = "h264") -> Path:
    """40 frames that grow brighter, 600 x 338, over a tone of 440 Hz."""
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(48_000 * 2) / 48_000)).astype(np.float32)
    write_wav(folder / "tone.wav", tone, 48_000)
    frames = (np.full((338, 600, 3), 40 + 4 * index, np.uint8) for index in range(40))
    path = film(folder / f"v{suffix}", frames, 40, folder / "tone.wav", (600, 338), codec=codec, metadata=TAGS)
    append_xmp(path, "<x/>")
    return path


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h264"), (".mkv", "h265")])
def test_a_copy_is_the_beginning_of_its_video(tmp_path: Path, suffix: str, codec: str) -> None:
    video, preview = original(tmp_path, suffix, codec), tmp_path / "p" / "copy.mp4"
    write_preview(video, preview, 25)
    found = probe(preview)
    assert found.video is not None
    assert found.audio is not None
    assert (found.video.codec, found.audio.codec, found.video.pix_fmt) == ("h264", "aac", "yuv420p")
    assert (found.video.width, found.video.height) == (SIDE_PX, 162)
    levels = [float(frame.mean()) for frame in read_frames(preview)]
    assert levels == pytest.approx([40 + 4 * index for index in range(25)], abs=2)
    sound, rate_hz = read_audio(preview)
    crossings = np.count_nonzero(np.diff(np.signbit(sound[rate_hz // 4 : rate_hz * 3 // 4])))
    assert crossings == pytest.approx(440, abs=3)
    assert preview.stat().st_size < 30_000


def test_a_copy_has_the_marks_of_its_video(tmp_path: Path) -> None:
    video, preview = original(tmp_path), tmp_path / "copy.mp4"
    write_preview(video, preview, 5)
    assert read_marks(preview) == read_marks(video)
    assert read_marks(preview).aigc == TAGS["AIGC"]


def test_a_small_video_is_not_enlarged_and_needs_no_sound(tmp_path: Path) -> None:
    video = film(tmp_path / "v.mp4", [np.zeros((48, 64, 3), np.uint8)] * 4, 4)
    write_preview(video, tmp_path / "copy.mp4", 4)
    assert [frame.shape for frame in read_frames(tmp_path / "copy.mp4")] == [(48, 64, 3)] * 4


def test_missing_pictures_leave_no_copy(tmp_path: Path) -> None:
    video = film(tmp_path / "v.mp4", [np.zeros((48, 64, 3), np.uint8)] * 4, 4)
    with pytest.raises(ValueError, match="4 frames came, 9 were announced"):
        write_preview(video, tmp_path / "copy.mp4", 9)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(Undecodable):
        write_preview(tmp_path / "broken.mp4", tmp_path / "copy.mp4", 1)
    assert not (tmp_path / "copy.mp4").exists()
