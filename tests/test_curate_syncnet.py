"""SyncNet in curation, with random weights in the published layout: each face by itself, streamed, Sync-D told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_curate_stages import measures

from linker.config import SAMPLE_RATE_HZ, CurateSettings
from linker.curate.measure import Measures
from linker.curate.sync import judge_lips, speaker, syncnet_says
from linker.curate.syncnet import Embeddings, face_crops, load_embeddings, measure_syncnet
from linker.curate.verdicts import Segment
from linker.encode import Target, encode
from linker.media import write_wav
from linker.model.syncnet import SyncNet, embed, embed_lips

FRAMES = 14
RNG = np.random.default_rng(5)


def two_faces() -> Measures:
    """The left face is seen from frame 2 on, the right one, smaller, throughout."""
    one = measures(FRAMES)
    centre = np.array([160.0, 90.0], np.float32)
    small = (one.points - centre) * 0.4 + (250, 90)
    large = one.points - (70, 0)
    large[:2] = np.nan
    return Measures(**{**vars(one), "points": np.concatenate([large, small], 1).astype(np.float32)})


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Embeddings]:
    """A folder with a video of noise, and what SyncNet with random weights says of it."""
    folder = tmp_path_factory.mktemp("syncnet")
    frames = RNG.integers(0, 255, (FRAMES, 180, 320, 3), np.uint8)
    encode(frames, [Target(folder / "video.mp4", (320, 180), crf=10)], None, FRAMES)
    write_wav(folder / "sound.wav", 0.1 * RNG.standard_normal(FRAMES * 640).astype(np.float32), SAMPLE_RATE_HZ)
    two_faces().save(folder / "measures.npz")
    torch.manual_seed(0)
    torch.save(SyncNet().eval().state_dict(), folder / "syncnet_v2.model")
    names = [folder / name for name in ("video.mp4", "measures.npz", "sound.wav", "syncnet_v2.model", "heard.npz")]
    measure_syncnet(*names)
    return folder, load_embeddings(folder / "heard.npz")


def test_every_face_has_its_own_embeddings(measured: tuple[Path, Embeddings]) -> None:
    folder, found = measured
    assert {name: value.shape for name, value in found.items()} == {
        "sound": (9, 1024), "first0": (), "lips0": (7, 1024), "first1": (), "lips1": (9, 1024)
    }  # fmt: skip
    assert (int(found["first0"]), int(found["first1"])) == (2, 0)
    assert np.abs(found["lips0"] - found["lips1"][2:]).max() > 0.01
    answers = [syncnet_says(found, Segment(0, 0, FRAMES, slot)) for slot in (0, 1)]
    distances = [answer.distance for answer in answers if answer]
    assert len(distances) == len(set(distances)) == 2
    assert syncnet_says(found, Segment(0, 0, FRAMES, 2)) is None
    assert len(list(face_crops(folder / "video.mp4", two_faces(), 0)[1])) == FRAMES - 2


def test_embeddings_are_those_of_all_frames_at_once() -> None:
    torch.manual_seed(0)
    net, faces = SyncNet().eval(), RNG.integers(0, 255, (19, 224, 224, 3), np.uint8)
    pictures = torch.from_numpy(faces[..., ::-1].astype(np.float32))
    with torch.no_grad():
        whole = torch.cat([net.lips(pictures[i : i + 5].permute(3, 0, 1, 2)[None]) for i in (0, 7, 8, 14)])
    found = embed_lips(net, iter(faces))
    assert len(found) == 15
    assert np.allclose(found[[0, 7, 8, 14]], whole, atol=1e-4)
    assert embed(net, faces[:6], np.zeros(16000, np.float32))[1].shape == (1, 1024)


def test_the_speaker_is_who_syncnet_says_and_sync_d_is_told() -> None:
    lips = RNG.standard_normal((2, 60, 1024)).astype(np.float16)
    heard = {"sound": lips[1], "first0": np.array(0), "lips0": lips[0], "first1": np.array(0), "lips1": lips[1]}
    pair = measures(60)
    both = Measures(**{**vars(pair), "points": np.tile(pair.points, (1, 2, 1, 1))})
    chosen = speaker(Segment(0, 0, 60, 0), both, lambda segment: syncnet_says(heard, segment))
    assert chosen == 1
    found, settings = syncnet_says(heard, Segment(0, 0, 60, 1)), CurateSettings(syncnet="syncnet_v2.model")
    sound = np.full(60 * 640, 0.1, np.float32)
    verdict = judge_lips("v", Segment(0, 0, 60, 1), sound, [[0.0, 2.4]], found, settings)
    assert (verdict.kept, verdict.measured["offset"]) == (True, 0)
    assert verdict.measured["sync_d"] < 1 < verdict.score


def test_a_refused_video_has_no_embeddings(tmp_path: Path, measured: tuple[Path, Embeddings]) -> None:
    np.savez(tmp_path / "measures.npz")
    weights = measured[0] / "syncnet_v2.model"
    measure_syncnet(
        tmp_path / "gone.mp4", tmp_path / "measures.npz", tmp_path / "gone.wav", weights, tmp_path / "e.npz"
    )
    assert load_embeddings(tmp_path / "e.npz") == {}
    assert syncnet_says(load_embeddings(tmp_path / "e.npz"), Segment(0, 0, 60, 0)) is None
