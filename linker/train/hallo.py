"""A Hallo checkpoint as a start: which of its keys fill this model, and why the others do not.

Hallo (fudan-generative-vision/hallo) keeps all its nets in one net.pth. It shares Stable Diffusion's two nets and
AnimateDiff's motion modules with this model; its audio attention is one of three in a second transformer of each layer.
The mouth's is taken here, where it is as wide as the layer; elsewhere the audio attention starts as the one to
face embeddings, which is what Hallo made of Stable Diffusion's text attention.
"""

from __future__ import annotations

import re

from torch import Tensor

from linker.errors import EnvironmentError
from linker.model.architecture import BASE, Architecture

MOTION = {  # our names inside a motion module -> Hallo's
    "transformer_blocks.0.attn1.": "transformer_blocks.0.attention_blocks.0.",
    "transformer_blocks.0.attn2.": "transformer_blocks.0.attention_blocks.1.",
    "transformer_blocks.0.norm1.": "transformer_blocks.0.norms.0.",
    "transformer_blocks.0.norm2.": "transformer_blocks.0.norms.1.",
    "transformer_blocks.0.norm3.": "transformer_blocks.0.ff_norm.",
}
CARRIED = {  # key of Hallo's -> what it becomes; the first pattern that fits
    r"^reference_unet\.": "reference net",
    r"\.motion_modules\.": "temporal modules",
    r"\.audio_modules\.": "audio attention, from the mouth's",
    r"transformer_blocks\.0\.(attn2|norm2)\.": "audio attention, from the one to face embeddings",
    r"^denoising_unet\.": "denoising net (reference attention from its self-attention)",
}
DROPPED = {
    r"\.pos_encoder\.pe$": "the sinusoids are computed",
    r"^reference_unet\..*transformer_blocks\..*\.(attn2|norm2)\.": "the reference net has no text attention",
    r"\.audio_modules\..*\.attn2_2\.to_out\.": "the audio attention's output starts at zero",
    r"\.audio_modules\..*\.attn2_[01]\.": "one audio attention serves all regions; the mouth's is taken",
    r"\.audio_modules\..*\.(attn2_2|norm2)\.": "narrower than the layer it belongs to",
    r"\.audio_modules\.": "the second transformer of each layer has no place here",
    r"^denoising_unet\..*transformer_blocks\..*\.(attn2|norm2)\.": "attended to face embeddings",
    r"^face_locator\.": "there is no face locator; region masks take its place",
    r"^imageproj\.": "face embeddings are not used here",
    r"^audioproj\.": "made for wav2vec2-base; speech is heard by XLS-R",
}
FRESH = {
    r"^reference\.conv_(norm_)?out\.": "Hallo's reference net has no output, and it is not used",
    r"\.attentions\..*\.attn2\.to_out\.": "starts at zero",
    r"\.gate\.": "the region gate is new",
    r"^audio\.": "the audio projector is new",
}


def origins_of(name: str) -> tuple[tuple[str, str], ...]:
    """(part, key) of Hallo's that may fill a parameter of ours, the first that fits; none when it starts fresh."""
    net, _, key = name.partition(".")
    if net == "audio" or ".gate." in key or re.search(r"\.attentions\..*\.attn2\.to_out\.", key):
        return ()
    if ".motion_modules." in key:
        stage, inner = re.split(r"(?<=motion_modules\.\d)\.", key, maxsplit=1)
        for ours, theirs in MOTION.items():
            inner = inner.replace(ours, theirs)
        return (("hallo", f"denoising_unet.{stage}.temporal_transformer.{inner}"),)
    key = key.replace(".attn_ref.", ".attn1.").replace(".norm_ref.", ".norm1.")
    same = ("hallo", f"{net}_unet.{key}")
    if net == "denoising" and re.search(r"transformer_blocks\.0\.(attn2|norm2)\.", key):
        heard = same[1].replace(".attentions.", ".audio_modules.").replace(".attn2.", ".attn2_2.")
        return ("hallo", heard), same
    return (same,)


def hallo_architecture(tensors: dict[str, Tensor], sample_px: int, speech_dim: int, scale: float) -> Architecture:
    """The dimensions that a net.pth shows in its shapes; the number of heads, which it does not, is Hallo's.

    Raises EnvironmentError when these are no tensors of Hallo's.
    """
    prefix = "denoising_unet."
    net = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    levels = range(len({key.split(".")[1] for key in net if key.startswith("down_blocks.")}))
    try:
        latent_channels = net["conv_in.weight"].shape[1]
        channels = tuple(net[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in levels)
        audio_dim = net["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    except KeyError as error:
        raise EnvironmentError(f"hallo: no key denoising_unet.{error.args[0]}; needed Hallo's net.pth") from None
    attends = [any(key.startswith(f"down_blocks.{level}.attentions.") for key in net) for level in levels]
    layers = len({key.split(".")[3] for key in net if key.startswith("down_blocks.0.resnets.")})
    return BASE.model_copy(update={
        "sample_px": sample_px, "latent_channels": latent_channels, "channels": channels, "attention": tuple(attends),
        "layers_per_block": layers, "speech_dim": speech_dim, "audio_dim": audio_dim,
        "latent_mean": (0.0,) * latent_channels, "latent_std": (1 / scale,) * latent_channels,
    })  # fmt: skip
