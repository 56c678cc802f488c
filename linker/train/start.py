"""A checkpoint to start base training from: published weights, key by key, with an account of every one.

unet    Stable Diffusion 1.5's U-Net, a diffusers folder: both nets; reference attention starts as its self-attention
motion  AnimateDiff's motion modules, a diffusers MotionAdapter folder: the temporal modules
codec   Stable Diffusion's AutoencoderKL, a diffusers folder, as it is
speech  wav2vec2-xls-r-300m, a transformers folder, as it is
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from linker.errors import EnvironmentError, SettingsError
from linker.model.architecture import Architecture
from linker.model.lingualinker import LinguaLinker
from linker.records import sha256_file

PARTS = ("unet", "motion", "codec", "speech")
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<folder>[\w.-]+))?@(?P<revision>[0-9a-f]{40})")
WEIGHT_NAMES = (
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "model.safetensors"),
    *("diffusion_pytorch_model.bin", "pytorch_model.bin"),
)
DROPPED = {  # keys of a source that deliberately have no place here: pattern -> why
    "unet": {r"\.attn2\.to_out\.": "the audio attention's output starts at zero"},
    "motion": {r"\.pos_embed\.pe$": "the sinusoids are computed"},
    "speech": {r"^(project_hid|project_q|quantizer|lm_head)\b": "made for its own pretraining"},
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
        """All tensors, float32; pickles are read with weights_only."""
        try:
            if self.file.suffix == ".safetensors":
                found = load_file(self.file)
            else:
                found = torch.load(self.file, map_location="cpu", weights_only=True)
        except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
            raise EnvironmentError(f"{self.file}: not a whole weights file ({error})") from None
        return {name: value.float() for name, value in found.items()}


def find_sources(words: Iterable[str]) -> dict[str, Source]:
    """`--from` as typed: one folder that holds unet/ motion/ codec/ speech/, or part=PLACE for each part. A place is a
    folder or a hub id owner/name[/folder]@revision; #SHA256 after it pins the weights file.

    Raises SettingsError for words that cannot be understood, EnvironmentError for what is not there.
    """
    places: dict[str, str] = {}
    for word in words:
        part, equals, place = word.partition("=")
        if equals and part in PARTS:
            places[part] = place
        elif not equals and Path(word).is_dir():
            places |= {name: str(Path(word) / name) for name in PARTS if name not in places}
        else:
            raise SettingsError(f"--from {word}: needed a folder, or one of {', '.join(PARTS)} = folder or hub id")
    missing = [part for part in PARTS if part not in places]
    if missing:
        raise SettingsError(f"--from names no {', '.join(missing)}; give {missing[0]}=FOLDER or owner/name@revision")
    return {part: checked(Source(part, places[part], fetched(part, places[part]))) for part in PARTS}


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


def start_base(sources: dict[str, Source], target: Path) -> dict[str, Any]:
    """Assemble the checkpoint folder `target`; the account that its card keeps: what each part's keys became."""
    torch.manual_seed(0)  # of what starts fresh
    model = LinguaLinker(base_architecture(sources))
    state, account = carry_over(model, {part: sources[part].tensors() for part in ("unet", "motion")})
    model.load_state_dict(state, strict=True)
    account["codec"] = copy_codec(sources["codec"], target / "codec")
    account["speech"] = copy_speech(sources["speech"], target / "speech")
    for part, source in sources.items():
        account[part] |= {"from": source.origin, "sha256": sha256_file(source.file)}
    model.save_pretrained(target, {"stage": 0, "sources": account}, torch.float32)
    return account


def base_architecture(sources: dict[str, Source]) -> Architecture:
    """The dimensions that the four configs describe."""
    net, motion, codec, speech = (sources[part].config() for part in PARTS)
    try:
        channels = net["in_channels"]
        return Architecture(
            size="base",
            sample_px=net["sample_size"] * 2 ** (len(codec["block_out_channels"]) - 1),
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
            latent_std=(1 / codec["scaling_factor"],) * channels,
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise EnvironmentError(f"these configs describe no Stable Diffusion 1.5 model ({error!r})") from None


def origin_of(name: str) -> tuple[str, str] | None:
    """(part, key) that fills a parameter of ours; None when it starts fresh."""
    net, _, key = name.partition(".")
    if ".motion_modules." in key:
        return "motion", key
    if net == "audio" or ".gate." in key or ".attn2.to_out." in key:
        return None
    return "unet", key.replace(".attn_ref.", ".attn1.").replace(".norm_ref.", ".norm1.")


def carry_over(
    model: LinguaLinker, sources: dict[str, dict[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """(the model's whole state, filled; the account). Raises EnvironmentError unless every key of every source is used
    or named in DROPPED, and every parameter of ours is filled or named in FRESH."""
    state, used, fresh = model.state_dict(), {part: set[str]() for part in sources}, list[str]()
    for name, value in state.items():
        part, key = origin_of(name) or ("", "")
        found = sources[part].get(key) if part else None
        if found is None:
            explain(name, FRESH, f"{part or 'sources'}: {key or name} is missing")
            fresh.append(name)
        elif found.shape != value.shape:
            raise EnvironmentError(f"{part}: {key} has shape {tuple(found.shape)}, needed {tuple(value.shape)}")
        else:
            state[name] = found
            used[part].add(key)
    account = {part: account_of(part, sources[part], used[part]) for part in sources}
    return state, account | {"fresh": tally(fresh, FRESH)}


def account_of(part: str, source: Iterable[str], used: set[str]) -> dict[str, Any]:
    """How many keys were used, and why the others were not."""
    left = sorted(set(source) - used)
    for key in left:
        explain(key, DROPPED.get(part, {}), f"{part}: {key} is unknown here; another architecture")
    return {"used": len(used), "dropped": tally(left, DROPPED.get(part, {}))}


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
    return account_of("codec", info["unexpected_keys"], set()) | {"used": len(codec.state_dict())}


def copy_speech(source: Source, target: Path) -> dict[str, Any]:
    """XLS-R's encoder without the heads of its pretraining, saved as safetensors."""
    from transformers import Wav2Vec2Model

    encoder, info = loaded(Wav2Vec2Model, source)
    encoder.save_pretrained(target)
    return account_of("speech", info["unexpected_keys"], set()) | {"used": len(encoder.state_dict())}


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
