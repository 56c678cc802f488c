"""The dimensions of a model, stored in its weights file and told nowhere else."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from linker.config import Group


class Architecture(Group):
    """Everything that fixes the shape of the two nets and the audio projector."""

    size: str = Field("mini", description="name for people: mini, base, or a test's own")
    sample_px: int = Field(256, ge=16, description="side of the frames the model makes")
    latent_px: int = Field(16, ge=2, description="side of a latent")
    latent_channels: int = Field(16, ge=1)
    channels: tuple[int, ...] = Field((128, 96), description="width of each level, finest first")
    attention: tuple[bool, ...] = Field((True, True), description="levels with transformer blocks")
    layers_per_block: int = Field(1, ge=1, description="resnets of a down block; up blocks have one more")
    heads: int = Field(4, ge=1, description="attention heads at every level")
    norm_groups: int = Field(16, ge=1)
    speech_dim: int = Field(160, ge=1, description="width of the speech encoder's hidden states")
    audio_dim: int = Field(128, ge=1, description="width of an audio token (768 at base size)")
    audio_context: int = Field(5, ge=1, description="audio tokens a frame, l in section 3.1; odd")
    window: int = Field(12, ge=1, description="frames generated at once (section 4.1)")
    preceding: int = Field(4, ge=1, description="preceding frames given to the temporal modules (section 4.1)")
    motion_heads: int = Field(4, ge=1)
    reference_positions: bool = Field(
        False, description="2-D sinusoids on queries and keys of the reference attention (decision 0002)"
    )
    quiet_noise: bool = Field(
        False, description="latents enter the denoising net scaled by their signal's share (decision 0002)"
    )
    told_controls: bool = Field(
        False, description="ranges multiply gates as scales do; the time embedding carries both (decisions 0012, 0017)"
    )
    eased_frames: int = Field(
        0, ge=0, description="frames over which a window's jump from the one before it fades; 0 = none (decision 0016)"
    )
    latent_mean: tuple[float, ...] = Field((), description="per-channel mean of the codec's latents; empty = 0")
    latent_std: tuple[float, ...] = Field((), description="per-channel deviation of the codec's latents; empty = 1")
    prediction: Literal["v_prediction"] = "v_prediction"

    @model_validator(mode="after")
    def fits(self) -> Self:
        """No net can be built of dimensions that do not fit each other."""
        levels, halvings = len(self.channels), max(len(self.channels) - 1, 0)
        shares, statistics = (2, self.norm_groups, self.heads, self.motion_heads), (self.latent_mean, self.latent_std)
        rules = {
            "channels needs a width at least": levels > 0,
            "attention needs a word for each of channels": len(self.attention) == levels,
            "channels needs multiples of 2, norm_groups, heads and motion_heads": all(
                width > 0 and not any(width % share for share in shares) for width in self.channels
            ),
            f"latent_px needs a multiple of {2**halvings}": self.latent_px % 2**halvings == 0,
            "audio_context needs an odd number": self.audio_context % 2 == 1,
            "latent_mean and latent_std need a number for each latent channel, or none": all(
                len(numbers) in (0, self.latent_channels) for numbers in statistics
            ),
        }
        for rule in (rule for rule, holds in rules.items() if not holds):
            raise ValueError(rule)
        return self


MINI = Architecture(reference_positions=True, quiet_noise=True, told_controls=True, eased_frames=5)
BASE = Architecture(
    size="base", sample_px=512, latent_px=64, latent_channels=4, channels=(320, 640, 1280, 1280),
    attention=(True, True, True, False), layers_per_block=2, heads=8, norm_groups=32, speech_dim=1024, audio_dim=768,
    motion_heads=8, latent_mean=(0.0,) * 4, latent_std=(1 / 0.18215,) * 4,
)  # fmt: skip
