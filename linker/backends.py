"""Loaders of networks made elsewhere. Imports are lazy: a step pays for what it uses; nothing is downloaded."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

from linker.errors import EnvironmentError
from linker.faults import first_line

CODECS = ("MotionCodec", "AutoencoderDC", "AutoencoderKL", "AutoencoderTiny")
_WHISPER_FILES = {"large": "large-v3", "turbo": "large-v3-turbo"}  # names whose file is called otherwise


def load_voice_activity() -> Any:
    """silero-vad; its model travels in its wheel."""
    from silero_vad import load_silero_vad

    return load_silero_vad()


def load_whisper(path_or_name: str) -> Any:
    """An openai-whisper model that knows languages, from a .pt file or by name from whisper's cache folder.

    Raises EnvironmentError when the file is missing, is no such checkpoint, or hears English alone.
    """
    import whisper

    path = find_whisper(path_or_name)
    try:
        model = whisper.load_model(str(path))
    except (RuntimeError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise EnvironmentError(f"{path}: is no openai-whisper checkpoint ({reason}); fetch it again") from None
    if not model.is_multilingual:
        raise EnvironmentError(f"{path}: hears English alone; set language.whisper to a model without '.en'")
    return model


def find_whisper(path_or_name: str) -> Path:
    """Where the weights lie: the .pt file itself, or the named model in LINKER_WHISPER_DIR or whisper's cache."""
    if path_or_name.endswith(".pt"):
        path, fetch = Path(path_or_name), "give language.whisper an existing .pt file"
    else:
        path = whisper_folder() / f"{_WHISPER_FILES.get(path_or_name, path_or_name)}.pt"
        fetch = f"""fetch it with: python -c "import whisper; whisper.load_model('{path_or_name}')" """.strip()
    if not path.is_file():
        raise EnvironmentError(f"whisper weights {path_or_name!r}: no file {path}; {fetch}, or clear language.whisper")
    return path


def whisper_folder() -> Path:
    """The folder with named weights: LINKER_WHISPER_DIR, otherwise where whisper itself keeps what it downloads."""
    return Path(os.environ.get("LINKER_WHISPER_DIR") or cache_home() / "whisper")


def cache_home() -> Path:
    """Where programs keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def load_codec(folder: Path, own: Any, channels: int | None = None) -> Any:
    """The image codec of a checkpoint: a diffusers folder whose config names its class, one of theirs or the project's
    `own`; safetensors only.

    Raises EnvironmentError where it is not whole, or its latents have not the `channels` that the nets need.
    """
    import diffusers

    name = check_codec(folder, channels)
    kind = own if name == own.__name__ else getattr(diffusers, name)
    return _of_width(_loaded(kind, folder), folder, "latent_channels", channels)


def check_codec(folder: Path, channels: int | None = None) -> str:
    """The class that a codec's config names. Raises EnvironmentError for another kind, or other latents."""
    config = _config_of(folder, "the checkpoint's image codec (diffusers)")
    name = str(config.get("_class_name", ""))
    if name not in CODECS:
        raise EnvironmentError(f"{folder}: found class {name!r}, needed one of {', '.join(CODECS)}")
    _check_width(folder, "latent_channels", config.get("latent_channels", channels), channels)
    return name


def load_tiny_decoder(folder: Path, channels: int) -> Any:
    """The small decoder that a checkpoint may have beside its codec: a diffusers AutoencoderTiny.

    Raises EnvironmentError where there is none, or it was made for other latents.
    """
    from diffusers import AutoencoderTiny

    check_tiny_decoder(folder, channels)
    return _of_width(_loaded(AutoencoderTiny, folder), folder, "latent_channels", channels)


def check_tiny_decoder(folder: Path, channels: int) -> None:
    """Raises EnvironmentError where a tiny decoder is missing, of another kind, or made for other latents."""
    get = "give one to `python3 -m linker weights init base ... tiny=FOLDER`, or --set generate.decoder=codec"
    if not folder.is_dir():
        needed = f"an AutoencoderTiny for latents of {channels} channels"
        raise EnvironmentError(f"decoder 'tiny': found no folder {folder}, needed {needed}; {get}")
    config = _config_of(folder, "the checkpoint's tiny decoder (diffusers)")
    if (name := config.get("_class_name")) != "AutoencoderTiny":
        raise EnvironmentError(f"{folder}: found class {name!r}, needed AutoencoderTiny; {get}")
    _check_width(folder, "latent_channels", config.get("latent_channels", channels), channels)


def load_speech_encoder(folder: Path, width: int | None = None) -> Any:
    """The speech encoder of a checkpoint: a transformers Wav2Vec2 folder; safetensors only.

    Raises EnvironmentError where it is not whole, is not built as XLS-R is (norms that look at one time alone), or its
    states have not the `width` that the audio projector needs.
    """
    from transformers import Wav2Vec2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    check_speech_encoder(folder, width)
    return _of_width(_loaded(Wav2Vec2Model, folder), folder, "hidden_size", width)


def check_speech_encoder(folder: Path, width: int | None = None) -> None:
    """Raises EnvironmentError where an encoder's config is not one of XLS-R's kind, or of another width."""
    config = _config_of(folder, "the checkpoint's speech encoder (transformers)")
    if config.get("feat_extract_norm") != "layer" or not config.get("do_stable_layer_norm"):
        found = f"feat_extract_norm {config.get('feat_extract_norm')!r}"
        raise EnvironmentError(f"{folder}: found {found}, needed 'layer' and do_stable_layer_norm, as XLS-R has them")
    _check_width(folder, "hidden_size", config.get("hidden_size", width), width)


def check_compiler() -> None:
    """Raises EnvironmentError where torch.compile would find no C++ compiler: the one that CXX names, else g++."""
    wanted = os.environ.get("CXX") or "g++"
    if not shutil.which(wanted):
        get = "install it, name another in CXX, or leave generate.compile out"
        raise EnvironmentError(f"generate.compile: found no C++ compiler {wanted!r}; {get}")


def _config_of(folder: Path, what: str) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise EnvironmentError(f"{path}: {what} cannot be read ({error})") from None


def _loaded(kind: Any, folder: Path) -> Any:
    """A network with every weight of its own and no other, all of them numbers."""
    import torch

    file = next(iter(sorted(folder.glob("*.safetensors"))), folder)
    try:
        net, told = kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, output_loading_info=True)
    except Exception as error:  # what the libraries make of a bad file or config is any of them
        why = f"does not load as {kind.__name__} with its config.json ({first_line(error)})"
        raise EnvironmentError(f"{file}: {why}") from None
    odd = sorted(str(name) for kinds in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in told[kinds])
    if odd:
        where = odd[0] if len(odd) == 1 else f"{odd[0]} and {len(odd) - 1} more"
        raise EnvironmentError(f"{file}: another architecture than in its config.json: {where} missing or unknown")
    for name, value in net.state_dict().items():
        if not torch.isfinite(value).all():
            raise EnvironmentError(f"{file}: {name} holds NaN or infinity")
    return net.float().eval()  # published files may be in half precision; what runs in it is decided later


def _of_width(net: Any, folder: Path, key: str, width: int | None) -> Any:
    _check_width(folder, key, getattr(net.config, key), width)
    return net


def _check_width(folder: Path, key: str, found: object, width: int | None) -> None:
    if width is not None and found != width:
        raise EnvironmentError(f"{folder}: {key} is {found}, the checkpoint's nets need {width}")
