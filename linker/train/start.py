"""A checkpoint to start base training from: published weights, key by key, with an account of every one.

unet    Stable Diffusion 1.5's U-Net, a diffusers folder: both nets; reference attention starts as its self-attention
motion  AnimateDiff's motion modules, a diffusers MotionAdapter folder: the temporal modules
codec   Stable Diffusion's AutoencoderKL, a diffusers folder, as it is
speech  wav2vec2-xls-r-300m, a transformers folder, as it is
tiny    AutoencoderTiny, a diffusers folder, as it is; may be left out
hallo   a folder with Hallo's net.pth, in place of unet and motion (hallo.py)
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from linker.errors import EnvironmentError, SettingsError
from linker.model.architecture import BASE, Architecture
from linker.model.lingualinker import LinguaLinker
from linker.records import sha256_file
from linker.train import hallo

PARTS = ("unet", "motion", "codec", "speech")
OTHERS = ("hallo", "tiny")
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<folder>[\w.-]+))?@(?P<revision>[0-9a-f]{40})")
WEIGHT_NAMES = (
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "model.safetensors"),
    *("diffusion_pytorch_model.bin", "pytorch_model.bin", "net.pth"),
)
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
class Source:
    """Where a part comes from: what the user typed, the folder it lies in, and the file that holds its tensors."""

    part: str
    origin: str
    folder: Path

    @property
    def file(self) -> Path:
        """The weights file. Raises EnvironmentError naming what was looked for."""
        for name in WEIGHT_NAMES:
            if (self.folder / name).is_file():
                return self.folder / name
        raise EnvironmentError(f"{self.part}: no weights in {self.folder}; looked for {', '.join(WEIGHT_NAMES)}")

    def config(self) -> dict[str, Any]:
        """config.json of the folder."""
        path = self.folder / "config.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise EnvironmentError(f"{self.part}: {path} cannot be read ({error})") from None

    def tensors(self) -> dict[str, Tensor]:
        """All tensors as they are; pickles are read with weights_only, and from the disk as they are asked for."""
        try:
            if self.file.suffix == ".safetensors":
                found = load_file(self.file)
            else:
                mapped = zipfile.is_zipfile(self.file)
                found = torch.load(self.file, map_location="cpu", weights_only=True, mmap=mapped)
        except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
            reason = str(error).split("\n")[0]
            raise EnvironmentError(f"{self.file}: not a whole weights file ({reason})") from None
        odd = [type(value).__name__ for value in found.values() if not isinstance(value, Tensor)]
        if odd:
            raise EnvironmentError(f"{self.file}: found {odd[0]} among its values, needed tensors alone")
        return dict(found)


def find_sources(words: Iterable[str]) -> dict[str, Source]:
    """`--from` as typed: one folder that holds unet/ motion/ codec/ speech/, or part=PLACE for each part. A place is a
    folder or a hub id owner/name[/folder]@revision; #SHA256 after it pins the weights file. `hallo` takes the place of
    unet and motion; `tiny` may be left out.

    Raises SettingsError for words that cannot be understood, EnvironmentError for what is not there.
    """
    places: dict[str, str] = {}
    for word in words:
        part, equals, place = word.partition("=")
        if equals and part in PARTS + OTHERS:
            places[part] = place
        elif not equals and Path(word).is_dir():
            places |= {name: str(Path(word) / name) for name in PARTS if name not in places}
        else:
            known = ", ".join(PARTS + OTHERS)
            raise SettingsError(f"--from {word}: needed a folder, or one of {known} = folder or hub id")
    needed = ("hallo", "codec", "speech") if "hallo" in places else PARTS
    missing = [part for part in needed if part not in places]
    if missing:
        raise SettingsError(f"--from names no {', '.join(missing)}; give {missing[0]}=FOLDER or owner/name@revision")
    wanted = [*needed, *(part for part in ("tiny",) if part in places)]
    return {part: checked(Source(part, places[part], fetched(part, places[part]))) for part in wanted}


def fetched(part: str, place: str) -> Path:
    """The folder of a part; what lies on the hub is fetched into its cache (partial downloads go on, HF_HUB_OFFLINE
    is respected)."""
    place = place.partition("#")[0]
    if Path(place).is_dir():
        return Path(place)
    match = HUB_ID.fullmatch(place)
    if not match:
        needed = "a folder, or owner/name[/folder]@ and the 40 digits of a revision"
        raise EnvironmentError(f"{part}={place}: no such folder; needed {needed}")
    from huggingface_hub import snapshot_download

    repo, folder, revision = match["repo"], match["folder"] or "", match["revision"]
    wanted = [f"{folder}/{name}".lstrip("/") for name in ("config.json", *WEIGHT_NAMES)]
    try:
        root = snapshot_download(repo, revision=revision, allow_patterns=wanted)
    except (OSError, ValueError) as error:
        get = f"hf download {repo} --revision {revision} --include '{folder or '.'}/*'"
        raise EnvironmentError(f"{part}={place}: not in the hub's cache and not fetched ({error}); {get}") from None
    return Path(root) / folder


def checked(source: Source) -> Source:
    """The source, its file proved to be the pinned one."""
    pin = source.origin.partition("#")[2]
    if pin and sha256_file(source.file) != pin:
        raise EnvironmentError(f"{source.file}: SHA-256 is {sha256_file(source.file)}, pinned was {pin}")
    return source


@dataclass(frozen=True)
class Plan:
    """How sources become the model: (part, key) that may fill a name, and why keys and names are left over."""

    origins: Callable[[str], Origins]
    carried: dict[str, dict[str, str]]
    dropped: dict[str, dict[str, str]]
    fresh: dict[str, str]


def start_base(sources: dict[str, Source], target: Path) -> dict[str, Any]:
    """Assemble the checkpoint folder `target`; the account that its card keeps: what each part's keys became."""
    torch.manual_seed(0)  # of what starts fresh
    tensors = {part: sources[part].tensors() for part in ("unet", "motion", "hallo") if part in sources}
    model = LinguaLinker(base_architecture(sources, tensors))
    state, account = carry_over(model, tensors, HALLO if "hallo" in sources else STABLE_DIFFUSION)
    model.load_state_dict(state, strict=True)
    account["codec"] = copy_codec(sources["codec"], target / "codec")
    account["speech"] = copy_speech(sources["speech"], target / "speech")
    if "tiny" in sources:
        account["tiny"] = copy_tiny(sources["tiny"], target / "tiny", model.arch.latent_channels)
    for part, source in sources.items():
        account[part] |= {"from": source.origin, "sha256": sha256_file(source.file)}
    model.save_pretrained(target, {"stage": 0, "sources": account}, torch.float32)
    return account


def base_architecture(sources: dict[str, Source], tensors: dict[str, dict[str, Tensor]]) -> Architecture:
    """The dimensions that the configs describe; Hallo has none and shows them in its shapes."""
    codec, speech = sources["codec"].config(), sources["speech"].config()
    try:
        shrink, scale = 2 ** (len(codec["block_out_channels"]) - 1), codec["scaling_factor"]
        if "hallo" in sources:
            sample_px = BASE.latent_px * shrink
            return hallo.hallo_architecture(tensors["hallo"], sample_px, speech["hidden_size"], scale)
        net, motion = sources["unet"].config(), sources["motion"].config()
        channels = net["in_channels"]
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
    model: LinguaLinker, sources: dict[str, dict[str, Tensor]], plan: Plan
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """(the model's whole state, filled; the account). Raises EnvironmentError unless every key of every source is used
    or named in the plan, every parameter of ours is filled or named there, and all that is used are numbers."""
    state, used, fresh = model.state_dict(), {part: list[str]() for part in sources}, list[str]()
    for name, value in state.items():
        there = [(part, key) for part, key in plan.origins(name) if key in sources[part]]
        fitting = [(part, key) for part, key in there if sources[part][key].shape == value.shape]
        if fitting:
            part, key = fitting[0]
            state[name] = finite(f"{part}: {key}", sources[part][key].float())
            used[part].append(key)
        elif there:
            part, key = there[-1]
            found, needed = tuple(sources[part][key].shape), tuple(value.shape)
            raise EnvironmentError(f"{part}: {key} has shape {found}, needed {needed}")
        else:
            wanted = plan.origins(name)
            part, key = wanted[-1] if wanted else ("sources", name)
            explain(name, plan.fresh, f"{part}: {key} is missing")
            fresh.append(name)
    account = {part: account_of(part, sources[part], used[part], plan) for part in sources}
    return state, account | {"fresh": tally(fresh, plan.fresh)}


def finite(what: str, value: Tensor) -> Tensor:
    """The tensor, proved to hold numbers."""
    if not torch.isfinite(value).all():
        raise EnvironmentError(f"{what} holds NaN or infinity")
    return value


def account_of(part: str, source: Iterable[str], used: list[str], plan: Plan) -> dict[str, Any]:
    """How many keys were used and for what (some fill two nets), and why the others were not."""
    dropped, keys = plan.dropped.get(part, {}), sorted(set(used))
    left = sorted(set(source) - set(keys))
    for key in left:
        explain(key, dropped, f"{part}: {key} is unknown here; another architecture")
    return {"used": len(keys), "carried": tally(keys, plan.carried[part]), "dropped": tally(left, dropped)}


def unexpected(part: str, names: Iterable[str], own: int) -> dict[str, Any]:
    """The account of a part that is taken over whole."""
    left, reasons = sorted(names), DROPPED.get(part, {})
    for key in left:
        explain(key, reasons, f"{part}: {key} is unknown here; another architecture")
    return {"used": own, "dropped": tally(left, reasons)}


def explain(name: str, reasons: dict[str, str], fault: str) -> str:
    """Why a name is left over. Raises EnvironmentError with `fault` when there is no reason."""
    for pattern, reason in reasons.items():
        if re.search(pattern, name):
            return reason
    raise EnvironmentError(fault)


def tally(names: list[str], reasons: dict[str, str]) -> dict[str, int]:
    """How many names each reason has."""
    told = [explain(name, reasons, name) for name in names]
    return {reason: told.count(reason) for reason in dict.fromkeys(told)}


def copy_codec(source: Source, target: Path) -> dict[str, Any]:
    """Stable Diffusion's autoencoder, saved as safetensors."""
    from diffusers import AutoencoderKL

    codec, info = loaded(AutoencoderKL, source)
    codec.save_pretrained(target)
    return unexpected("codec", info["unexpected_keys"], len(codec.state_dict()))


def copy_tiny(source: Source, target: Path, channels: int) -> dict[str, Any]:
    """The small decoder, saved as safetensors. Raises EnvironmentError when it was made for other latents."""
    from diffusers import AutoencoderTiny

    small, info = loaded(AutoencoderTiny, source)
    if small.config.latent_channels != channels:
        found = small.config.latent_channels
        raise EnvironmentError(f"{source.folder}: decodes latents of {found} channels, needed {channels}")
    small.save_pretrained(target)
    return unexpected("tiny", info["unexpected_keys"], len(small.state_dict()))


def copy_speech(source: Source, target: Path) -> dict[str, Any]:
    """XLS-R's encoder without the heads of its pretraining, saved as safetensors."""
    from transformers import Wav2Vec2Model

    encoder, info = loaded(Wav2Vec2Model, source)
    encoder.save_pretrained(target)
    return unexpected("speech", info["unexpected_keys"], len(encoder.state_dict()))


def loaded(kind: Any, source: Source) -> tuple[Any, dict[str, Any]]:
    """A network and what its library says about keys. Raises EnvironmentError when any of its own is missing."""
    try:
        net, info = kind.from_pretrained(source.folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise EnvironmentError(f"{source.folder}: does not load as {kind.__name__} ({reason})") from None
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))[0]
        raise EnvironmentError(f"{source.folder}: {lacking} of {kind.__name__} is missing or of another shape")
    return net, info
