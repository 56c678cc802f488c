"""Windows: noise from (seed, window), exact guidance, seams, the background that stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_conditions, tiny_model

from linker.model.audio_context import pad_context
from linker.model.gate import RegionGate
from linker.model.lingualinker import LEAST_INPUT, LinguaLinker, input_scale
from linker.model.masks import background_of, ranged_masks, scale_area
from linker.model.sample import (
    ClipConditions,
    Sampling,
    Windows,
    eased,
    noise_of,
    preceding_frames,
    sample_windows,
    window_count,
)
from linker.model.schedule import SAMPLERS, make_scheduler

FRAMES = 30


@pytest.fixture(scope="module")
def model() -> LinguaLinker:
    return tiny_model()


@pytest.fixture(scope="module")
def clip(model: LinguaLinker) -> ClipConditions:
    return conditions(model, seed=3)


@torch.no_grad()
def conditions(model: LinguaLinker, seed: int) -> ClipConditions:
    given = tiny_conditions(model, seed=seed)
    return ClipConditions(
        given["portrait"],
        model.read_portrait(given["portrait"]),
        model.mask_pyramid(given["masks"]),
        given["scales"],
        given["scales"],
        torch.zeros(1, 1, 8, 8).index_fill_(3, torch.tensor([0, 1]), 1.0),
    )


SPEECH = pad_context(torch.randn(1, 36, 24, generator=torch.Generator().manual_seed(0)), 5)


def window_of(
    model: LinguaLinker, clip: ClipConditions, number: int, seed: int, before: torch.Tensor | None
) -> Windows:
    heard = SPEECH[:, 12 * number : 12 * number + 16]
    return Windows((number,), (seed,), heard, preceding_frames(model, clip.still, before), (before is not None,))


def made(model: LinguaLinker, clip: ClipConditions, seed: int = 1, first: int = 0, before=None, **how) -> torch.Tensor:
    sampling = Sampling(**{"steps": 2, "guidance_scale": 2.0, **how})
    windows = []
    for number in range(first, window_count(FRAMES, 12)):
        before = sample_windows(model, clip, window_of(model, clip, number, seed, before), sampling)
        windows.append(before)
    return torch.cat(windows, dim=1)


def test_the_input_is_scaled_by_its_signal_and_never_silent() -> None:
    scale = input_scale(torch.arange(1000))
    assert scale[0] > 0.99
    assert scale[-1] == pytest.approx(LEAST_INPUT)
    assert (scale.diff() <= 0).all()


@given(st.integers(0, 2**31 - 1), st.integers(0, 10_000))
def test_noise_is_a_function_of_seed_and_window(seed: int, window: int) -> None:
    assert torch.equal(noise_of(seed, window, (4,)), noise_of(seed, window, (4,)))
    assert not torch.equal(noise_of(seed, window, (4,)), noise_of(seed, window + 1, (4,)))
    assert not torch.equal(noise_of(seed, window, (4,)), noise_of(seed + 1, window, (4,)))


@given(st.integers(1, 10_000), st.integers(1, 64))
def test_windows_cover_every_frame(frames: int, window: int) -> None:
    count = window_count(frames, window)
    assert (count - 1) * window < frames <= count * window


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_gives_the_same_frames_again(model: LinguaLinker, clip: ClipConditions, sampler: str) -> None:
    first, second = made(model, clip, sampler=sampler), made(model, clip, sampler=sampler)
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()


@pytest.mark.parametrize("steps", [1, 50, 51, 333, 1000])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_every_number_of_steps(sampler: str, steps: int) -> None:
    """As many as asked, from the last timestep down; also more than a distillation's 50."""
    times = make_scheduler(sampler, steps).timesteps
    assert len(times) == steps
    assert times[0] == 999
    assert (times.diff() < 0).all()


def test_a_clip_continues_where_it_stopped(model: LinguaLinker, clip: ClipConditions) -> None:
    whole = made(model, clip)
    rest = made(model, clip, first=1, before=whole[:, :12])
    assert torch.equal(whole[:, 12:], rest)


def test_each_window_sees_the_one_before(model: LinguaLinker, clip: ClipConditions) -> None:
    whole = made(model, clip)
    other = made(model, clip, first=1, before=whole[:, :12] + 1)
    assert not torch.equal(whole[:, 12:], other)


def test_guidance_one_needs_no_second_half(model: LinguaLinker, clip: ClipConditions) -> None:
    calls = []
    hook = model.denoising.register_forward_hook(lambda *_: calls.append(1))
    made(model, clip, guidance_scale=1.0)
    hook.remove()
    assert len(calls) == 2 * 3  # steps x windows


def test_zero_strength_freezes_the_background(model: LinguaLinker, clip: ClipConditions) -> None:
    frozen = made(model, clip, background_strength=0.0)
    still = clip.still[:, None, :, :, :2].expand(-1, 36, -1, -1, -1)
    assert torch.equal(frozen[..., :2], still)
    assert not torch.equal(frozen[..., 3:], made(model, clip)[..., 3:])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_clips_bits_do_not_depend_on_its_company_or_its_place(
    model: LinguaLinker, sampler: str, dtype: torch.dtype
) -> None:
    """The same clip alone (repeated to fill the batch) and among others, at every place of the batch."""
    clips = [conditions(model, seed) for seed in range(4)]
    windows = [
        window_of(model, clip, number, number + 7, None) for number, clip in zip((0, 2, 1, 0), clips, strict=True)
    ]
    how = Sampling(2, 2.0, sampler)

    def batch(order: list[int]) -> torch.Tensor:
        together = ClipConditions.together([clips[i] for i in order])
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return sample_windows(model, together, Windows.together([windows[i] for i in order]), how)

    alone = {i: batch([i] * 4)[0] for i in range(4)}
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 0, 3]):
        for place, latents in enumerate(batch(order)):
            assert torch.equal(latents, alone[order[place]])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_window_is_made_where_its_net_is(sampler: str) -> None:
    """On 'meta', a device without numbers where, as on a GPU, a tensor of another device is an error."""
    model, background = tiny_model().to("meta"), torch.zeros(1, 1, 8, 8, device="meta")
    given = {name: value.to("meta") for name, value in tiny_conditions(model).items()}
    masks = model.mask_pyramid(given["masks"])
    clip = ClipConditions(
        given["portrait"], model.read_portrait(given["portrait"]), masks, *[given["scales"]] * 2, background
    )
    window = Windows((0,), (1,), given["speech"], preceding_frames(model, clip.still, None), (False,))
    strength = 1.0 if sampler == "unipc" else 0.5  # its `add_noise` looks timesteps up, which takes numbers
    found = sample_windows(model, clip, window, Sampling(3, 2.0, sampler, strength))
    assert (found.device.type, found.shape) == ("meta", (1, 12, 4, 8, 8))


def test_half_precision_makes_nearly_the_same(model: LinguaLinker, clip: ClipConditions) -> None:
    whole = made(model, clip)
    for dtype, share in ((torch.bfloat16, 0.1), (torch.float16, 0.02)):
        with torch.autocast("cpu", dtype):
            assert (made(model, clip) - whole).norm() < share * whole.norm(), dtype


def test_the_guided_half_alone_computes_gates(model: LinguaLinker, clip: ClipConditions) -> None:
    """Without a condition there is no gate: what it is made of is computed once a step, guidance or not."""
    calls: list[int] = []
    gates = [module for module in model.denoising.modules() if isinstance(module, RegionGate)]
    hooks = [gate.ada_norm.register_forward_hook(lambda *_: calls.append(1)) for gate in gates]
    sample_windows(model, clip, window_of(model, clip, 0, 1, None), Sampling(2, 3.5))
    for hook in hooks:
        hook.remove()
    assert len(calls) == 2 * len(gates)


def test_the_last_timestep_has_no_signal() -> None:
    scheduler = make_scheduler("ddim", 4)
    assert scheduler.alphas_cumprod[-1] < 1e-6
    assert scheduler.timesteps[0] == 999


@given(st.floats(0.3, 3.0))
def test_range_scales_the_area(area: float) -> None:
    mask = torch.zeros(96, 96)
    mask[40:56, 36:60] = 1
    assert scale_area(mask, area).sum() == pytest.approx(float(mask.sum()) * area, rel=0.15)


@given(st.tuples(*[st.floats(0.2, 3.0)] * 3))
def test_ranged_masks_stay_disjoint(ranges: tuple[float, float, float]) -> None:
    masks = torch.zeros(3, 64, 64)
    masks[1, 40:48, 24:40] = 1
    masks[2, 20:28, 18:46] = 1
    masks[0, 10:56, 12:52] = 1
    masks[0] -= masks[1] + masks[2]
    ranged = ranged_masks(masks, ranges)
    assert ranged.min() >= 0
    assert ranged.sum(0).max() <= 1 + 1e-5


def test_unchanged_ranges_change_nothing() -> None:
    masks = torch.softmax(torch.randn(4, 16, 16), 0)[:3]
    assert torch.equal(ranged_masks(masks, (1.0, 1.0, 1.0)), masks)


def test_background_is_far_from_the_head() -> None:
    masks = torch.zeros(3, 64, 64)
    masks[0, 20:44, 20:44] = 1
    weight = background_of(masks, 16)[0, 0]
    assert weight[8, 8] == 0
    assert weight[0, 0] == 1


def test_a_window_leads_on_from_the_frame_before_it() -> None:
    """A line that would begin 5 higher than it should goes on as it went, and comes back to itself; a window that
    begins from the portrait is left alone, as is every one where nothing is to be eased."""
    line = torch.arange(12.0).view(1, 12, 1, 1, 1) + 5
    before = torch.full((1, 4, 1, 1, 1), -1.0)
    windows = Windows((1,), (0,), speech=torch.zeros(1, 16, 2), preceding=before, follows=(True,))
    led = eased(line, windows, 5).flatten()
    assert led[0].item() == 0
    assert led[1].item() == pytest.approx(6 - 5 * (1 - 1 / 5) ** 2)
    assert torch.equal(led[5:], line.flatten()[5:])
    assert torch.equal(eased(line, replace(windows, follows=(False,)), 5), line)
    assert torch.equal(eased(line, windows, 0), line)
    assert eased(line[:, :1], windows, 5).item() == -1
