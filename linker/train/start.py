"""A checkpoint to start base training from: published weights, key by key, with an account of every one.

unet    Stable Diffusion 1.5's U-Net, a diffusers folder: both nets; reference attention starts as its self-attention
motion  AnimateDiff's motion modules, a diffusers MotionAdapter folder: the temporal modules
codec   Stable Diffusion's AutoencoderKL, a diffusers folder, as it is
speech  wav2vec2-xls-r-300m, a transformers folder, as it is
tiny    AutoencoderTiny, a diffusers folder, as it is; may be left out
hallo   a folder with Hallo's net.pth, in place of unet and motion (hallo.py)
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from linker.backends import check_codec, check_speech_encoder, check_tiny_decoder
from linker.errors import EnvironmentError, SettingsError
from linker.faults import first_line
from linker.model.architecture import BASE, Architecture
from linker.model.lingualinker import LinguaLinker
from linker.records import sha256_file, write_json
from linker.train import hallo
from linker.train.sources import Source

SD_SCALING_FACTOR = 0.18215  # Stable Diffusion's autoencoders were published before a config could name it
ACCOUNT = "sources.json"  # beside the card: the names behind the numbers that the card gives
Tensors = Mapping[str, Tensor]
Origins = tuple[tuple[str, str], ...]
DROPPED = {  # keys of a source that deliberately have no place here: pattern -> why
    "unet": {r"\.attn2\.to_out\.": "the audio attention's output starts at zero"},
    "motion": {r"\.pos_embed\.pe$": "the sinusoids are computed"},
    "speech": {r"^(project_hid|project_q|quantizer|lm_head)\b": "made for its own pretraining"},
}
CARRIED = {
    "unet": {r"": "both nets (reference attention from the self-attention)"},
    "motion": {r"": "temporal modules"},
}
FRESH = {  # names of ours that no source can fill: pattern -> why
    r"\.attentions\..*\.attn2\.to_out\.": "starts at zero",
    r"\.gate\.": "the region gate is new",
    r"^audio\.": "the audio projector is new",
    r"mid_block\.motion_modules\.": "this motion adapter has no middle block",
}


@dataclass(frozen=True)
class Plan:
    """How sources become the model: (part, key) that may fill a name, and why keys and names are left over."""

    origins: Callable[[str], Origins]
    carried: dict[str, dict[str, str]]
    dropped: dict[str, dict[str, str]]
    fresh: dict[str, str]


def start_base(sources: dict[str, Source], target: Path) -> dict[str, Any]:
    """Assemble the checkpoint folder `target`, whole or not at all. ACCOUNT in it names what became of every key; its
    card, and what is returned, count them. Raises SettingsError for a target that holds something, EnvironmentError for
    sources that do not fit."""
    with whole_folder(target) as building:
        return _assemble(sources, building)


def _assemble(sources: dict[str, Source], target: Path) -> dict[str, Any]:
    torch.manual_seed(0)  # of what starts fresh
    tensors = {part: sources[part].tensors() for part in ("unet", "motion", "hallo") if part in sources}
    model = LinguaLinker(base_architecture(sources, tensors))
    files = {part: sources[part].file for part in tensors}
    state, account = carry_over(model, tensors, HALLO if "hallo" in sources else STABLE_DIFFUSION, files)
    model.load_state_dict(state, strict=True)
    account["codec"] = copy_codec(sources["codec"], target / "codec", model.arch.latent_channels)
    account["speech"] = copy_speech(sources["speech"], target / "speech")
    if "tiny" in sources:
        account["tiny"] = copy_tiny(sources["tiny"], target / "tiny", model.arch.latent_channels)
    for part, source in sources.items():
        digest, place = sha256_file(source.file), source.origin.partition("#")[0]
        account[part] |= {"from": source.origin, "sha256": digest, "pinned": f"{part}={place}#{digest}"}
    write_json(target / ACCOUNT, account)
    told: dict[str, Any] = counted(account)
    model.save_pretrained(target, {"stage": 0, "sources": told}, torch.float32)
    return told


def counted(account: Any) -> Any:
    """The account, its lists of names as their lengths."""
    if isinstance(account, dict):
        return {key: counted(value) for key, value in account.items()}
    return len(account) if isinstance(account, list) else account


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends well, and nothing otherwise. Raises SettingsError."""
    refuse_occupied(target)
    place = target.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield building
        umask = os.umask(0)
        os.umask(umask)
        building.chmod(0o777 & ~umask)
        os.rename(building, place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def refuse_occupied(target: Path) -> None:
    """Raises SettingsError for anything but a new or empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"{target}: found something there, needed a new or empty folder; name another")


def base_architecture(sources: dict[str, Source], tensors: dict[str, dict[str, Tensor]]) -> Architecture:
    """The dimensions that the configs describe; Hallo has none and shows them in its shapes."""
    codec, speech = sources["codec"].config(), sources["speech"].config()
    try:
        shrink, scale = 2 ** (len(codec["block_out_channels"]) - 1), codec.get("scaling_factor", SD_SCALING_FACTOR)
        if "hallo" in sources:
            sample_px = BASE.latent_px * shrink
            return hallo.hallo_architecture(tensors["hallo"], sample_px, speech["hidden_size"], scale)
        net, motion = sources["unet"].config(), sources["motion"].config()
        channels, groups = net["in_channels"], motion.get("motion_norm_num_groups", net["norm_num_groups"])
        if groups != net["norm_num_groups"]:
            needed = f"the unet's {net['norm_num_groups']}"
            raise EnvironmentError(f"{sources['motion'].folder}: motion_norm_num_groups is {groups}, needed {needed}")
        return Architecture(
            size="base",
            sample_px=net["sample_size"] * shrink,
            latent_px=net["sample_size"],
            latent_channels=channels,
            channels=net["block_out_channels"],
            attention=tuple("CrossAttn" in kind for kind in net["down_block_types"]),
            layers_per_block=net["layers_per_block"],
            heads=net["attention_head_dim"],  # diffusers' old name for the number of heads
            norm_groups=net["norm_num_groups"],
            speech_dim=speech["hidden_size"],
            audio_dim=net["cross_attention_dim"],
            motion_heads=motion["motion_num_attention_heads"],
            latent_mean=(0.0,) * channels,
            latent_std=(1 / scale,) * channels,
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise EnvironmentError(f"these configs describe no Stable Diffusion 1.5 model ({error!r})") from None


def origins_of(name: str) -> Origins:
    """(part, key) that fills a parameter of ours; nothing when it starts fresh."""
    net, _, key = name.partition(".")
    if ".motion_modules." in key:
        return (("motion", key),)
    if net == "audio" or ".gate." in key or ".attn2.to_out." in key:
        return ()
    return (("unet", key.replace(".attn_ref.", ".attn1.").replace(".norm_ref.", ".norm1.")),)


STABLE_DIFFUSION = Plan(origins_of, CARRIED, DROPPED, FRESH)
HALLO = Plan(hallo.origins_of, {"hallo": hallo.CARRIED}, {"hallo": hallo.DROPPED}, hallo.FRESH)


def carry_over(
    model: LinguaLinker, sources: Mapping[str, Tensors], plan: Plan, files: Mapping[str, Path]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """(the model's whole state, filled; the account). Raises EnvironmentError unless every key of every source is used
    or named in the plan, every parameter of ours is filled or named there, and all that is used are numbers."""
    state = model.state_dict()
    places, account = placed(state, sources, plan, files)
    for name, (part, key) in places.items():
        state[name] = finite(f"{files[part]}: {key}", sources[part][key].float())
    return state, account


def placed(
    state: Tensors, sources: Mapping[str, Tensors], plan: Plan, files: Mapping[str, Path]
) -> tuple[dict[str, tuple[str, str]], dict[str, dict[str, Any]]]:
    """(the part and key that fill each parameter of ours; the account of all names), by names and shapes alone. Raises
    EnvironmentError, naming the part's file, for what neither fits nor is named in the plan."""
    places, fresh = dict[str, tuple[str, str]](), list[str]()
    for name, value in state.items():
        there = [(part, key) for part, key in plan.origins(name) if key in sources[part]]
        fitting = [(part, key) for part, key in there if sources[part][key].shape == value.shape]
        if fitting:
            places[name] = fitting[0]
        elif there:
            part, key = there[-1]
            found, needed = tuple(sources[part][key].shape), tuple(value.shape)
            raise EnvironmentError(f"{files[part]}: {key} has shape {found}, needed {needed}")
        else:
            wanted = plan.origins(name)
            where, key = (files[wanted[-1][0]], wanted[-1][1]) if wanted else ("no source", name)
            explain(name, plan.fresh, f"{where}: {key} is missing")
            fresh.append(name)
    account = {part: account_of(part, sources[part], places.values(), plan, files[part]) for part in sources}
    return places, account | {"fresh": sorted_out(fresh, plan.fresh)}


def finite(what: str, value: Tensor) -> Tensor:
    """The tensor, proved to hold numbers."""
    if not torch.isfinite(value).all():
        raise EnvironmentError(f"{what} holds NaN or infinity")
    return value


def account_of(
    part: str, source: Iterable[str], places: Iterable[tuple[str, str]], plan: Plan, file: Path
) -> dict[str, Any]:
    """Which keys were used (some fill two nets) and for what, and why the others were not."""
    dropped, keys = plan.dropped.get(part, {}), sorted({key for where, key in places if where == part})
    left = sorted(set(source) - set(keys))
    for key in left:
        explain(key, dropped, f"{file}: {key} is unknown here; another architecture")
    carried = sorted_out(keys, plan.carried[part])
    return {"used": keys, "carried": carried, "dropped": sorted_out(left, dropped)}


def taken_whole(part: str, names: Iterable[str], unexpected: Iterable[str], file: Path) -> dict[str, Any]:
    """The account of a part that is taken over as it is, by its published names."""
    left, reasons = sorted(unexpected), DROPPED.get(part, {})
    for key in left:
        explain(key, reasons, f"{file}: {key} is unknown here; another architecture")
    return {"used": sorted(set(names) - set(left)), "dropped": sorted_out(left, reasons)}


def explain(name: str, reasons: dict[str, str], fault: str) -> str:
    """Why a name is left over. Raises EnvironmentError with `fault` when there is no reason."""
    for pattern, reason in reasons.items():
        if re.search(pattern, name):
            return reason
    raise EnvironmentError(fault)


def sorted_out(names: Iterable[str], reasons: dict[str, str]) -> dict[str, list[str]]:
    """The names that each reason has."""
    told: dict[str, list[str]] = {}
    for name in names:
        told.setdefault(explain(name, reasons, name), []).append(name)
    return told


def copy_codec(source: Source, target: Path, channels: int) -> dict[str, Any]:
    """Stable Diffusion's autoencoder, saved as safetensors. Raises EnvironmentError when it makes other latents."""
    from diffusers import AutoencoderKL

    check_codec(source.folder, channels)
    return copied(AutoencoderKL, source, target)


def copy_tiny(source: Source, target: Path, channels: int) -> dict[str, Any]:
    """The small decoder, saved as safetensors. Raises EnvironmentError when it was made for other latents."""
    from diffusers import AutoencoderTiny

    check_tiny_decoder(source.folder, channels)
    return copied(AutoencoderTiny, source, target)


def copy_speech(source: Source, target: Path) -> dict[str, Any]:
    """XLS-R's encoder without the heads of its pretraining, saved as safetensors. Raises EnvironmentError for an
    encoder of another kind."""
    from transformers import Wav2Vec2Model

    check_speech_encoder(source.folder)
    return copied(Wav2Vec2Model, source, target)


def copied(kind: Any, source: Source, target: Path) -> dict[str, Any]:
    """Save a source's network in float32; the account of its keys. Raises EnvironmentError when any parameter is
    missing, of another shape or no number, or a key has no place and no reason."""
    names, half = source.names(), {"variant": "fp16"} if ".fp16." in source.file.name else {}
    try:
        net, info = kind.from_pretrained(source.folder, local_files_only=True, output_loading_info=True, **half)
    except Exception as error:  # what the libraries make of a bad config is any of them
        why = f"does not load as {kind.__name__} with its config.json ({first_line(error)})"
        raise EnvironmentError(f"{source.file}: {why}") from None
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))[0]
        raise EnvironmentError(f"{source.file}: {lacking} of {kind.__name__} is missing or of another shape")
    account, own = taken_whole(source.part, names, info["unexpected_keys"], source.file), net.state_dict()
    if len(account["used"]) != len(own):
        found = f"found {len(account['used'])} keys for {len(own)} parameters"
        raise EnvironmentError(f"{source.file}: {found} of {kind.__name__}; another architecture")
    for name, value in own.items():
        finite(f"{source.file}: {name}", value)
    net.float().save_pretrained(target)
    return account
