"""How much signal is left at each timestep: one set of betas for training and inference."""

from __future__ import annotations

from functools import cache
from typing import Any

from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler, UniPCMultistepScheduler
from torch import Tensor

SAMPLERS = {"ddim": DDIMScheduler, "unipc": UniPCMultistepScheduler, "lcm": LCMScheduler, "tcd": TCDScheduler}
TRAIN_STEPS = 1000
DISTILLED_STEPS = (50, 100, 125, 200, 250, 500, TRAIN_STEPS)  # each ends at the very last timestep


def make_scheduler(name: str, steps: int) -> Any:
    """Same betas in training and inference: Stable Diffusion's, rescaled to zero terminal SNR, trailing timesteps.

    LCM and TCD choose theirs among those of their distillation; where more are wanted, of a finer one."""
    options: dict[str, Any] = {"clip_sample": False} if name in ("ddim", "lcm", "tcd") else {}
    if name in ("lcm", "tcd"):
        options["original_inference_steps"] = next(count for count in DISTILLED_STEPS if count >= steps)
    scheduler = SAMPLERS[name](
        num_train_timesteps=TRAIN_STEPS, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True, **options,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    return scheduler


@cache
def signal_levels() -> Tensor:
    """alpha-bar of every timestep, (TRAIN_STEPS,): from nearly 1 to exactly 0."""
    levels: Tensor = make_scheduler("ddim", 1).alphas_cumprod.float()
    return levels
