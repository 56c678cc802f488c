"""upscale_video: the crop's own size, the same picture, every frame."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scene import Scene

from linker.compose import resize
from linker.config import FinishSettings, UpscaleSettings
from linker.enlarge import Steady, TiledNetwork, load_network
from linker.errors import EnvironmentError
from linker.media import probe, read_frames
from linker.upscale import upscale_video


def upscaled(scene: Scene, settings: FinishSettings) -> list[np.ndarray]:
    scene.generate(3, noise=0, drift=0)
    path = scene.root / "upscaled.mkv"
    upscale_video(scene.generated, scene.crop, path, UpscaleSettings(), settings)
    assert probe(path).video.fps == 25
    return list(read_frames(path))


def test_the_crops_own_size(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    frames = upscaled(scene, FinishSettings())
    side = scene.box[2] - scene.box[0]
    assert [frame.shape for frame in frames] == [(side, side, 3)] * 3
    truth = scene.cut(scene.picture((0, 0.4 * 0.06 * scene.head_px * 0.94), 0.5), side).astype(int)
    assert np.abs(frames[0] - truth)[20:60, 20:60].mean() < 12  # in place: a shifted wall would differ more


def test_the_longest_side_is_limited(tmp_path: Path) -> None:
    frames = upscaled(Scene(tmp_path), FinishSettings(max_side_px=200))
    assert frames[0].shape == (104, 104, 3)  # a crop of 208 in a portrait 400 high
    frames = upscaled(Scene(tmp_path), FinishSettings(max_side_px=150, layout="crop"))
    assert frames[0].shape == (150, 150, 3)


def test_smaller_is_averaged_and_not_picked(tmp_path: Path) -> None:
    frames = upscaled(Scene(tmp_path, side=256), FinishSettings(max_side_px=128))
    before = list(read_frames(tmp_path / "generated.mkv"))
    assert abs(frames[0].mean() - before[0].mean()) < 1


# ---- networks of the user's own, written here in the layouts in which people pass them on


def write_network(path: Path, kind: str = "compact", gain: float = 0.02) -> Path:
    """A tiny random network in the layout of Real-ESRGAN's releases: compact (x2) or esrgan (x4)."""
    torch.manual_seed(0)

    def conv(inner: int, outer: int) -> dict[str, torch.Tensor]:
        return {"weight": torch.randn(outer, inner, 3, 3) * gain, "bias": torch.zeros(outer)}

    layers: dict[str, dict[str, torch.Tensor]] = {}
    if kind == "compact":
        for index, (inner, outer) in enumerate([(3, 8), (8, 8), (8, 12)]):
            layers[f"body.{2 * index}"] = conv(inner, outer)
            if index < 2:
                layers[f"body.{2 * index + 1}"] = {"weight": torch.full((outer,), 0.2)}
    else:
        layers |= {"conv_first": conv(3, 8), "conv_body": conv(8, 8), "conv_up1": conv(8, 8), "conv_up2": conv(8, 8)}
        layers |= {"conv_hr": conv(8, 8), "conv_last": conv(8, 3)}
        for block in (1, 2, 3):
            for number in range(5):
                layers[f"body.0.rdb{block}.conv{number + 1}"] = conv(8 + 32 * number, 32 if number < 4 else 8)
    weights = {f"{name}.{part}": tensor for name, parts in layers.items() for part, tensor in parts.items()}
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({"params_ema": weights}, path)
    return path


def write_spandrel(path: Path, name: str) -> Path:
    """A tiny random SwinIR (x2), or RestoreFormer, which restores faces: in the layouts of their releases."""
    torch.manual_seed(0)
    load_network(write_network(path.with_name("first.pth")))  # imports spandrel without torchvision
    from spandrel.architectures.RestoreFormer import RestoreFormer
    from spandrel.architectures.SwinIR import SwinIR

    if name == "swinir":
        net = SwinIR(img_size=16, embed_dim=12, depths=[2, 2], num_heads=[2, 2], window_size=8, mlp_ratio=2, upscale=2,
                     upsampler="pixelshuffle", resi_connection="1conv")  # fmt: skip
    else:
        net = RestoreFormer(n_embed=16, embed_dim=32, ch=32, ch_mult=(1, 1, 1, 1, 1, 1), num_res_blocks=1,
                            z_channels=32)  # fmt: skip
    torch.save({"params": net.state_dict()}, path)
    return path


def flicker(frames: list[np.ndarray], still: np.ndarray) -> float:
    """Energy of the differences between neighbouring frames where nothing moves."""
    stack = np.stack(frames).astype(np.float32)
    return float(np.square(np.diff(stack, axis=0))[:, still].mean())


def noisy_clip(count: int = 12, side: int = 64) -> list[np.ndarray]:
    """A textured wall under fine noise, and a bright disc that moves in the middle."""
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(60, 190, (16, 16, 3), dtype=np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    frames = []
    for index in range(count):
        frame = np.clip(wall + rng.normal(0, 1.2, wall.shape), 0, 255).astype(np.uint8)
        cv2.circle(frame, (side // 2 + int(6 * np.sin(index)), side // 2), 8, (240, 200, 60), -1)
        frames.append(frame)
    return frames


def test_a_network_is_as_steady_as_lanczos_outside_motion(tmp_path: Path) -> None:
    frames, side = noisy_clip(), 128
    still = np.ones((side, side), bool)
    still[30:98, 20:108] = False
    network = TiledNetwork(load_network(write_network(tmp_path / "n.pth", gain=0.25)), 32)
    alone = [resize(network(frame), side) for frame in frames]
    steady = Steady(network, side, 3.0)
    lanczos = flicker([resize(frame, side) for frame in frames], still)
    assert flicker(alone, still) > 1.5 * lanczos  # this network does flicker, left to itself
    assert flicker([steady(frame) for frame in frames], still) <= 1.1 * lanczos


def test_what_moves_is_drawn_by_the_network_in_every_frame(tmp_path: Path) -> None:
    frames, side = noisy_clip(), 128
    network = TiledNetwork(load_network(write_network(tmp_path / "n.safetensors")), 32)
    steady = Steady(network, side, 3.0)
    shown = [steady(frame) for frame in frames]
    for frame, found in zip(frames, shown, strict=True):
        middle = np.s_[58:70, 50:78]
        assert np.abs(found[middle].astype(int) - resize(network(frame), side)[middle]).mean() < 8


@pytest.mark.parametrize("kind", ["compact", "esrgan"])
def test_colour_and_range_are_kept(tmp_path: Path, kind: str) -> None:
    frames, side = noisy_clip(3), 96
    network = TiledNetwork(load_network(write_network(tmp_path / "n.pth", kind, gain=0.1)), 32)
    steady = Steady(network, side, 3.0)
    for frame in frames:
        shown = steady(frame)
        assert (shown.shape, shown.dtype) == ((side, side, 3), np.uint8)
        assert np.abs(shown.mean(axis=(0, 1)) - frame.mean(axis=(0, 1))).max() < 1.5


def test_swinir_is_tiled_and_keeps_colours(tmp_path: Path) -> None:
    frame = noisy_clip(1, 48)[0]
    network = load_network(write_spandrel(tmp_path / "s.pth", "swinir"))
    assert (network.architecture.name, network.scale) == ("SwinIR", 2)
    assert TiledNetwork(network, 24)(frame).shape == (96, 96, 3)
    shown = Steady(TiledNetwork(network, 24), 80, 3.0)(frame)
    assert shown.shape == (80, 80, 3)
    assert np.abs(shown.mean(axis=(0, 1)) - frame.mean(axis=(0, 1))).max() < 1.5


def test_a_restorer_of_faces_sees_the_whole_face_at_its_own_size(tmp_path: Path) -> None:
    frames = noisy_clip(2, 48)
    network = load_network(write_spandrel(tmp_path / "r.pth", "restoreformer"))
    tiled = TiledNetwork(network, 24)
    assert tiled.restores_faces
    seen: list[tuple[int, ...]] = []
    network.model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    steady = Steady(tiled, 96, 3.0)
    for frame in frames:
        shown = steady(frame)
        assert (shown.shape, shown.dtype) == ((96, 96, 3), np.uint8)
        assert np.abs(shown.mean(axis=(0, 1)) - frame.mean(axis=(0, 1))).max() < 1.5
    assert seen == [(1, 3, 512, 512)] * 2


def test_too_little_memory_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> np.ndarray:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(TiledNetwork, "_run", full)
    scene = Scene(tmp_path)
    scene.generate(2, noise=0, drift=0)
    wanted = UpscaleSettings(weights=str(write_network(tmp_path / "n.pth")))
    with pytest.raises(EnvironmentError, match=r"out of memory; lower upscale\.tile_px \(now 256\)"):
        upscale_video(scene.generated, scene.crop, tmp_path / "upscaled.mkv", wanted, FinishSettings())
    assert not (tmp_path / "upscaled.mkv").exists()


def test_tiles_make_no_difference(tmp_path: Path) -> None:
    frame = noisy_clip(1)[0]
    network = load_network(write_network(tmp_path / "n.pth"))
    whole, tiled = TiledNetwork(network, 64)(frame), TiledNetwork(network, 24)(frame)
    assert np.abs(whole - tiled).max() < 0.01


def test_the_step_uses_the_network(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.generate(3, noise=0, drift=0)
    weights = str(write_network(tmp_path / "n.pth"))
    for name, settings in (("plain", UpscaleSettings()), ("net", UpscaleSettings(weights=weights))):
        upscale_video(scene.generated, scene.crop, tmp_path / f"{name}.mkv", settings, FinishSettings(factor=2))
    plain, net = (np.stack(list(read_frames(tmp_path / f"{name}.mkv"))) for name in ("plain", "net"))
    assert plain.shape == net.shape == (3, 416, 416, 3)
    assert 0 < np.abs(plain.astype(int) - net).mean() < 6


def test_weights_that_are_none_are_named_and_run_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "PWNED",))

    torch.save({"params": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"a": torch.zeros(2)}, tmp_path / "odd.safetensors")
    for name in ("evil.pth", "text.safetensors", "odd.safetensors", "gone.pth"):
        with pytest.raises(EnvironmentError, match=rf"upscale\.weights .*{name}"):
            load_network(tmp_path / name)
    assert not (tmp_path / "PWNED").exists()


def test_no_torchvision_is_left_behind(tmp_path: Path) -> None:
    load_network(write_network(tmp_path / "n.pth"))
    assert "torchvision" not in sys.modules
