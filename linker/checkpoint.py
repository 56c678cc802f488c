"""Is a checkpoint whole, and does it fit the rows that ask for it? Told from its card and files: no network is built.

Names within a block are left to who loads it: the workers, and `python3 -m linker weights FOLDER`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from linker.backends import check_codec, check_speech_encoder, check_tiny_decoder
from linker.config import MINI_DIR, GenerateSettings, preset_of, weights_folder
from linker.errors import EnvironmentError
from linker.model.architecture import Architecture
from linker.model.card import CARD, WEIGHTS, read_architecture, read_card, weight_files
from linker.tensors import Shapes, read_header, scan


def check_checkpoint(settings: GenerateSettings, presets: Iterable[str]) -> None:
    """Refuse the checkpoint that `settings.weights` names unless it can make rows of these `presets` ('' = the
    settings' own). Raises EnvironmentError: one line with what was found, what was needed, and what to type."""
    folder = weights_folder(settings)
    try:
        size = read_architecture(folder).size
        chosen = {preset_of(settings, size, name or settings.preset).decoder for name in presets}
        check_folder(folder, "tiny" in chosen)
    except EnvironmentError as fault:
        raise EnvironmentError(f"{fault}; {_remedy(folder)}") from None


def check_folder(folder: Path, tiny: bool | None = None) -> None:
    """Refuse a checkpoint whose files are not those of its card, or do not fit each other; `tiny`: with its tiny
    decoder; without a word, where there is one. Raises EnvironmentError."""
    arch = read_architecture(folder)
    _check_files(folder)
    _check_nets(folder / WEIGHTS, read_header(folder / WEIGHTS), arch)
    check_codec(folder / "codec", arch.latent_channels)
    check_speech_encoder(folder / "speech", arch.speech_dim)
    with_tiny = (folder / "tiny").is_dir() if tiny is None else tiny
    if with_tiny:
        check_tiny_decoder(folder / "tiny", arch.latent_channels)
    _check_parts(folder, ("codec", "speech", *(["tiny"] if with_tiny else [])))


def _remedy(folder: Path) -> str:
    if folder == MINI_DIR:
        return f"the embedded weights are damaged: type `git checkout {folder}`, or install again"
    told = f"type `python3 -m linker weights {folder}` to check all of it"
    return f"{told}, or leave generate.weights out for the embedded weights"


def _check_files(folder: Path) -> None:
    """Every file that the card names is there, whole, has the card's SHA-256, and holds numbers alone."""
    files = read_card(folder).get("files")
    if not isinstance(files, dict) or WEIGHTS not in files:
        raise EnvironmentError(f"{folder / CARD}: found no hash of {WEIGHTS} under 'files', needed one of every file")
    for name, wanted in files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise EnvironmentError(f"{folder / CARD}: names {name}, which lies outside the checkpoint")
        read_header(path)
        found = scan(path)
        if found.sha256 != wanted:
            told = f"found SHA-256 {found.sha256[:12]}..., needed the card's {str(wanted)[:12]}..."
            raise EnvironmentError(f"{path}: {told}")
        if found.odd:
            raise EnvironmentError(f"{path}: {found.odd} holds NaN or infinity, needed numbers")


def _check_parts(folder: Path, parts: Iterable[str]) -> None:
    """Each network beside the nets has weights in safetensors, and all of them are the card's: they decide frames, and
    the card is what rows are kept by."""
    named = read_card(folder)["files"]
    for part in parts:
        found = weight_files(folder / part)
        if not found:
            raise EnvironmentError(f"{folder / part}: found no .safetensors file, needed the weights of its network")
        for path in found:
            if path.relative_to(folder).as_posix() not in named:
                raise EnvironmentError(f"{path}: found no hash of it on {CARD}, needed one of every file")


def _check_nets(path: Path, found: Shapes, arch: Architecture) -> None:
    """The shapes that show every dimension of the card, and no level or layer beyond them."""
    for name, wanted in _borders(arch).items():
        if found.get(name) != wanted:
            has = f"found {found[name]}" if name in found else "found none"
            raise EnvironmentError(f"{path}: another architecture than the card's: {name}: {has}, needed {wanted}")
    last = f"down_blocks.{len(arch.channels) - 1}.resnets."
    beyond = (f"down_blocks.{len(arch.channels)}.", f"{last}{arch.layers_per_block}.")
    odd = sorted(name for name in found if any(f".{part}" in name for part in beyond))
    if odd:
        raise EnvironmentError(f"{path}: another architecture than the card's: found {odd[0]}, which it does not have")


def _borders(arch: Architecture) -> Shapes:
    """Where each dimension of an architecture shows in the names and shapes of its weights."""
    width, layer = arch.channels[0], arch.layers_per_block - 1
    shapes: Shapes = {
        "audio.norm.weight": (arch.speech_dim,),
        "audio.position": (arch.audio_context, arch.audio_dim),
    }
    for net in ("reference", "denoising"):
        shapes[f"{net}.conv_in.weight"] = (width, arch.latent_channels, 3, 3)
        shapes[f"{net}.conv_out.weight"] = (arch.latent_channels, width, 3, 3)
        for level, (channels, attends) in enumerate(zip(arch.channels, arch.attention, strict=True)):
            block = f"{net}.down_blocks.{level}"
            shapes[f"{block}.resnets.{layer}.conv2.weight"] = (channels, channels, 3, 3)
            if attends:
                shapes[f"{block}.attentions.{layer}.proj_in.weight"] = (channels, channels, 1, 1)
    return shapes
