"""The mini model's codec: a portrait's own latent, what a flow moves, what paint covers, how pairs are drawn."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import SMALL_CODEC, small_motion_codec

from linker.errors import Diverged, EnvironmentError
from linker.model.codec import FINEST, decode_frames, encode_frames, load_codec, read_portrait, to_pixels
from linker.model.motion_codec import ABOUT_PX, MotionCodec, crisp, identity_grid, laid, moved
from linker.train import codec as codec_module
from linker.train.codec import (
    LATENT_NOISE,
    WEIGHTS,
    Pairs,
    Sheets,
    apart,
    astray,
    codec_loss,
    coloured,
    covariance,
    draw_pairs,
    drawn,
    even_out,
    frame_files,
    picture_loss,
    roughness,
    tracked_at,
    train_codec,
    twins_of,
)


@pytest.fixture(scope="module")
def codec() -> MotionCodec:
    return small_motion_codec()


def picture(side: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@torch.no_grad()
def test_the_portraits_own_latent_is_zero(codec: MotionCodec) -> None:
    portrait = read_portrait(codec, picture(), 64)
    frames = np.stack([picture(), picture(seed=1)])
    latents = encode_frames(codec, frames, portrait)
    assert latents.shape == (2, 4, 4, 4)
    torch.testing.assert_close(latents[0], portrait.still[0], atol=1e-5, rtol=0)
    assert latents[1].abs().max() > 0.01


@torch.no_grad()
def test_before_training_every_frame_is_the_portrait() -> None:
    codec = MotionCodec(**SMALL_CODEC)
    portrait = read_portrait(codec, picture(), 64)
    made = decode_frames(codec, torch.randn(3, 4, 4, 4), portrait.appearance)
    assert np.abs(made.astype(int) - picture()).max() <= 5  # the paint's cover starts at 0.02


@torch.no_grad()
def test_frames_are_drawn_with_the_portraits_finer_pixels(codec: MotionCodec) -> None:
    large = np.kron(picture(32), np.ones((6, 6, 1), np.uint8))  # 192 px; the nets see 64
    portrait = read_portrait(codec, large, 64)
    assert portrait.side_px == FINEST * 64
    assert decode_frames(codec, portrait.still, portrait.appearance).shape == (1, 128, 128, 3)
    small = read_portrait(codec, picture(48), 64)
    assert decode_frames(codec, small.still, small.appearance).shape == (1, 64, 64, 3)


@settings(max_examples=20, deadline=None)
@given(dx=st.integers(-6, 6), dy=st.integers(-6, 6))
def test_an_even_flow_shifts_the_picture(dx: int, dy: int) -> None:
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    flow = torch.tensor([dx / 16, dy / 16]).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    inner = moved(pixels, flow)[..., 8:24, 8:24]
    torch.testing.assert_close(inner, pixels[..., 8 + dy : 24 + dy, 8 + dx : 24 + dx], atol=1e-4, rtol=0)


def test_the_grid_leaves_pixels_where_they_are() -> None:
    pixels = torch.rand(2, 3, 10, 14)
    found = torch.nn.functional.grid_sample(
        pixels, identity_grid(10, 14, pixels.device).expand(2, -1, -1, -1), align_corners=False
    )
    torch.testing.assert_close(found, pixels)


def test_paint_covers_what_it_should() -> None:
    under, colour = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 16, 16)
    cover = torch.zeros(1, 1, 16, 16)
    cover[..., :8] = 1
    made = laid(under, colour, cover)
    assert made[..., :12].min() > 0.99
    assert made[..., 20:].max() < 0.01
    assert torch.equal(laid(colour, colour * 0.5, torch.ones_like(cover)), colour * 0.5)


def test_paint_that_is_shown_covers_or_does_not() -> None:
    """What covers by half does so still, whole and none stay, and the others are decided."""
    _, cover = crisp(torch.zeros(1, 3, 1, 8), torch.tensor([0, 0.1, 0.3, 0.45, 0.5, 0.55, 0.7, 1]).view(1, 1, 1, 8))
    wanted = torch.tensor([0, 1 / (1 + 9**2), 1 / (1 + (7 / 3) ** 2), 1 / (1 + (11 / 9) ** 2), 0.5])
    torch.testing.assert_close(cover.flatten()[:5], wanted)
    torch.testing.assert_close(cover.flatten()[5:], torch.tensor([1 - wanted[3], 1 - wanted[2], 1.0]))


@given(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
def test_paint_that_is_shown_has_twice_the_detail_of_its_light_and_the_same_colours(light: float, step: float) -> None:
    """An edge between two lights is twice as high at once, and far from it all is as it was."""
    colour = torch.tensor([0.1, 0.0, -0.1]).view(1, 3, 1, 1) + torch.full((1, 3, 8, 64), light)
    colour[..., 32:] += step
    made, _ = crisp(colour, torch.ones(1, 1, 8, 64))
    torch.testing.assert_close(made[..., : 32 - ABOUT_PX], colour[..., : 32 - ABOUT_PX])
    torch.testing.assert_close(made[..., 32 + ABOUT_PX :], colour[..., 32 + ABOUT_PX :])
    edge = (2 - 1 / (2 * ABOUT_PX + 1)) * step
    torch.testing.assert_close(made[..., 32] - made[..., 31], torch.full((1, 3, 8), edge))
    torch.testing.assert_close(made - made.mean(1, keepdim=True), colour - colour.mean(1, keepdim=True))


@torch.no_grad()
def test_what_is_learnt_from_has_its_paint_as_it_is(codec: MotionCodec) -> None:
    latent, portrait = torch.randn(2, 4, 4, 4), torch.rand(2, 3, 64, 64)
    learnt, seen = drawn(codec, latent, portrait)[0], codec.read(portrait)
    torch.testing.assert_close(codec.decode(latent, seen, shown=False), learnt)
    assert (codec.decode(latent, seen) - learnt).abs().max() > 1e-3


def test_it_is_loaded_as_it_was_saved(codec: MotionCodec, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    again = load_codec(tmp_path, 4)
    assert all(torch.equal(a, b) for a, b in zip(codec.parameters(), again.parameters(), strict=True))
    with pytest.raises(EnvironmentError, match="latent_channels"):
        load_codec(tmp_path, 8)


def write_twins(folder: Path, names: tuple[str, ...] = ("000006", "000007")) -> list[list[Path]]:
    """Frames that open: the mouth's truth grows with the number that fills the frame, and the lids close. The second
    twin is brighter."""
    count = 10
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8)
    masks = np.zeros((count, 3, 4, 4), np.float16)
    masks[:, 1, 2, 1] = 1
    for number, name in enumerate(names):
        np.save(folder / f"{name}.frames.npy", frames * 20 + 40 * number)
        tracked = np.full((count, 3, 2), 32, np.float32) + np.arange(count, dtype=np.float32)[:, None, None]
        curve = np.arange(count)
        np.savez(folder / f"{name}.npz", masks=masks, opening_px=curve, blink=curve, tracked=tracked)
    return twins_of(frame_files(folder))


def test_pairs_are_a_function_of_the_step(tmp_path: Path) -> None:
    twins = write_twins(tmp_path)
    one, again, other = (draw_pairs(twins, step, 4) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(again).values(), strict=True))
    assert not torch.equal(one.portraits, other.portraits)
    assert one.tracked.shape == (4, 2, 3, 2)
    assert one.portraits.shape == one.frames.shape == (2, 4, 3, 64, 64)
    assert one.weight.shape == (4, 1, 4, 4)
    assert one.weight.max() == 1 + WEIGHTS[1]
    assert not torch.equal(one.frames[0], one.frames[1])  # another light for the decoder than for the encoder


def test_a_twin_is_moved_by_itself_or_by_its_twin(tmp_path: Path) -> None:
    twins = write_twins(tmp_path)
    moved_by = torch.cat([draw_pairs(twins, step, 4).mover - torch.tensor([0, 0, 2, 2]) for step in range(40)])
    couples = moved_by.unflatten(0, (-1, 2))
    crossed = (couples == torch.tensor([1, 0])).all(1)
    assert (crossed | (couples == torch.tensor([0, 1])).all(1)).all()
    assert 0.5 < crossed.float().mean() < 0.95


def test_twins_are_found_by_what_they_do(tmp_path: Path) -> None:
    found = write_twins(tmp_path, ("000005", "000006", "000007", "000008"))  # 4 and 9 are not there
    assert [[path.name[:6] for path in twins] for twins in found] == [["000006", "000007"]]


def test_twins_are_apart_by_what_they_do_not_share() -> None:
    shared, own = torch.randn(2, 64, 4, 16, 16)
    same = torch.stack([shared, shared], 1).flatten(0, 1)
    assert apart(same).item() == 0
    assert apart(3 * torch.stack([shared, own], 1).flatten(0, 1)).item() == pytest.approx(1, abs=0.02)
    assert apart(torch.stack([shared, -shared], 1).flatten(0, 1)).item() == pytest.approx(2)


@torch.no_grad()
def test_evened_latents_vary_alike_and_draw_the_same(codec: MotionCodec, tmp_path: Path) -> None:
    twins, net = write_twins(tmp_path), copy.deepcopy(codec)
    before = covariance(net, twins, 0, 4)
    portrait = net.read(to_pixels(net, picture()[None]))
    drawn = net.decode(net.encode(to_pixels(net, picture(seed=1)[None]), portrait.pixels), portrait)
    even_out(net, before)
    again = net.decode(net.encode(to_pixels(net, picture(seed=1)[None]), portrait.pixels), portrait)
    torch.testing.assert_close(again, drawn, atol=1e-4, rtol=0)
    wanted = torch.linalg.eigvalsh(before) / (torch.linalg.eigvalsh(before) + LATENT_NOISE**2)
    torch.testing.assert_close(torch.linalg.eigvalsh(covariance(net, twins, 0, 4)), wanted, atol=1e-3, rtol=1e-3)


def test_every_weight_learns_from_twins(codec: MotionCodec, tmp_path: Path) -> None:
    pairs = draw_pairs(write_twins(tmp_path), 0, 4)
    loss, parts = codec_loss(codec, pairs, torch.Generator().manual_seed(0))
    loss.backward()
    still = [name for name, value in codec.named_parameters() if value.grad is None or value.grad.abs().max() < 1e-9]
    still.remove("lids.weight")  # which learns after the others (test_lids.py)
    assert all(
        name.startswith("motion.") and name.endswith("bias") for name in still
    )  # the portrait's own cancels them
    assert set(parts) == {"l1", "moved", "still", "apart", "astray_px"}


def test_a_flow_learns_before_there_is_paint(codec: MotionCodec, tmp_path: Path) -> None:
    codec, pairs = copy.deepcopy(codec), draw_pairs(write_twins(tmp_path), 0, 4)
    loss, parts = codec_loss(codec, pairs, torch.Generator().manual_seed(0), paints=False)
    codec.zero_grad()
    loss.backward()
    assert parts["l1"] == parts["moved"]
    assert all(value.grad is None for value in codec.paint.parameters())
    assert codec.flow_out.weight.grad is not None
    assert codec.flow_out.weight.grad.abs().max() > 0


def test_paint_joins_after_its_share_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = list[bool]()

    def noted(net: MotionCodec, pairs: Pairs, noise: torch.Generator, paints: bool) -> tuple[torch.Tensor, dict]:
        joined.append(paints)
        return codec_loss(net, pairs, noise, paints)

    monkeypatch.setattr(codec_module, "codec_loss", noted)
    monkeypatch.setattr(codec_module, "MotionCodec", small_motion_codec)
    write_twins(tmp_path)
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    train_codec(tmp_path, tmp_path / "state", steps=5, batch=2, sheets=Sheets(lambda net: red, every=2))
    assert joined == [False, False, True, True, True]
    sheets = sorted((tmp_path / "state" / "samples").iterdir())
    assert [path.name for path in sheets] == ["0000002.png", "0000004.png", "0000005.png"]
    assert (np.asarray(Image.open(sheets[0])) == red).all()


def test_a_loss_that_is_not_finite_names_its_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = torch.full((), torch.nan, requires_grad=True)
    monkeypatch.setattr(codec_module, "codec_loss", lambda *_, **__: (lost * 1, {}))
    monkeypatch.setattr(codec_module, "MotionCodec", small_motion_codec)
    write_twins(tmp_path)
    with pytest.raises(Diverged, match="; its batch: video 6, video 7; "):
        train_codec(tmp_path, tmp_path / "state", steps=5, batch=2)


def test_who_is_moved_decides_how(codec: MotionCodec) -> None:
    latent = torch.randn(1, 4, 4, 4)
    portraits = [codec.read(to_pixels(codec, picture(seed=seed)[None])) for seed in (0, 1)]
    flows = [codec.flow_of(codec.mover(latent, portrait.maps)) for portrait in portraits]
    assert (flows[0] - flows[1]).abs().max() > 1e-4


def test_the_loss_is_zero_for_the_picture_itself_and_weighs_the_mouth() -> None:
    wanted, weight = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 4, 4)
    assert picture_loss(wanted, wanted, weight).item() == 0
    near, far = wanted.clone(), wanted.clone()
    near[..., 40:44, 20:24] += 0.5
    far[..., 4:8, 20:24] += 0.5
    weight[..., 2, 1] = 5
    assert picture_loss(near, wanted, weight) > 2 * picture_loss(far, wanted, weight)


@settings(max_examples=30, deadline=None)
@given(dx=st.floats(-0.3, 0.3), dy=st.floats(-0.3, 0.3), far=st.floats(0, 9))
def test_a_flow_is_astray_by_what_it_misses_tracked_points_by(dx: float, dy: float, far: float) -> None:
    rng = np.random.default_rng(0)
    here = torch.from_numpy(rng.uniform(-0.6, 0.6, (2, 7, 2)).astype(np.float32))
    there = here + torch.tensor([dx, dy])
    there[0, 0] = torch.nan  # a face without that point
    there[1, 1] = 1.5  # a point beyond the picture
    flow = torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(2, 2, 16, 16) + far / 32
    assert astray(flow, torch.stack([here, there], 1), 64).item() == pytest.approx(2 * far, abs=1e-3)


def test_nothing_is_astray_where_no_point_is_tracked() -> None:
    flow = torch.rand(1, 2, 8, 8, requires_grad=True)
    off = astray(flow, torch.full((1, 2, 3, 2), torch.nan), 64)
    off.backward()
    assert off.item() == 0
    assert flow.grad is not None
    assert (flow.grad == 0).all()


def test_tracked_points_are_mirrored_with_the_picture() -> None:
    truth = {"tracked": np.float32([[[0, 0], [64, 16]], [[32, 32], [48, 64]]])}
    plain, mirrored = (tracked_at(truth, [1, 0], 64, mirror) for mirror in (1, -1))
    np.testing.assert_allclose(plain, [[[0, 0], [0.5, 1]], [[-1, -1], [1, -0.5]]])
    np.testing.assert_allclose(mirrored, plain * [-1, 1])


def test_an_even_flow_is_not_rough() -> None:
    assert roughness(torch.ones(1, 2, 8, 8)).item() == 0
    assert roughness(torch.arange(8.0).expand(1, 2, 8, 8)).item() == pytest.approx(1)


def test_pixels_come_back(codec: MotionCodec) -> None:
    pixels = to_pixels(codec, picture()[None])
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels[0, :, 5, 7].mul(127.5).add(127.5).round().to(torch.uint8).tolist() == picture()[5, 7].tolist()


def test_a_light_changes_gain_offset_order_and_gamma() -> None:
    pictures = torch.full((1, 1, 2, 2, 3), 0, dtype=torch.uint8) + torch.tensor([51, 102, 204], dtype=torch.uint8)
    plain = [1, 1, 1, 0, 0, 0, 0, 1, 2, 1]
    other = [1, 1, 0.5, 51, 0, 0, 2, 0, 1, 2]
    seen = coloured(pictures, torch.tensor([[plain, other]], dtype=torch.float32))
    assert seen.shape == (1, 2, 1, 3, 2, 2)
    shown = (seen[0, :, 0, :, 0, 0] + 1) / 2
    torch.testing.assert_close(shown[0], torch.tensor([0.2, 0.4, 0.8]))
    torch.testing.assert_close(shown[1], torch.tensor([0.4, 0.4, 0.4]) ** 2)
