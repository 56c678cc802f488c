"""The training rules' steps, in order: videos, codec with its shut lids, speech encoder, encoded videos, both stages.

Each writes one small file when it is done, and keeps its resumable state in a folder beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linker import __version__, heartbeat
from linker.backends import load_speech_encoder
from linker.config import CODEC_FORM, DRAWN_FORM, ENCODED_FORM, TrainSettings
from linker.errors import EnvironmentError
from linker.model.architecture import MINI, Architecture
from linker.model.card import read_card
from linker.model.codec import load_codec
from linker.model.critic import save_critic
from linker.model.lingualinker import LinguaLinker, read_architecture
from linker.records import atomic, read_json, sha256_file, write_json
from linker.synth.video import draw_videos as draw_range
from linker.train import codec as codec_module
from linker.train import critic as critic_module
from linker.train import speech as speech_module
from linker.train.codec import Sheets, frame_files, twins_of
from linker.train.codec_samples import codec_sheet
from linker.train.curves import draw_curves
from linker.train.dataset import encode_clip, keep_only, latent_deviation, portrait_of
from linker.train.dataset import encode_videos as encode_range
from linker.train.fit import STATE
from linker.train.footage import Segment, decoded, read_segments
from linker.train.journal import read_metrics
from linker.train.lids import teach_lids
from linker.train.presets import deciding
from linker.train.ranks import Ranks, cores
from linker.train.record import extend_record, write_record
from linker.train.stages import joint, stage_1, stage_2, train_stage
from linker.train.stills import Stills, find_stills, read_stills

LIDS_SHARE = 0.3  # steps that shut lids are taught, a share of the codec's
HELD_OUT = 4  # videos that samples are made of, and that are not trained on
HELD_OUT_SEED = 100_000_000  # of the first one that is drawn


def draw_videos(videos: Path, settings: TrainSettings, processes: int = 1) -> None:
    """Draw and speak the training videos into the folder of the listing `videos`."""
    folder, held_out = videos.parent, videos.parent.with_name("encoded") / "held_out"
    found = read_stills(Path(settings.stills), folder.with_name("stills")) if settings.stills else Stills()
    made_of = draw_set(folder, held_out, settings.videos, settings.data_seed, found, processes)
    told = {"stills": len(found.faces), "skipped": found.skipped, "made_of": made_of}
    write_json(videos, {"videos": settings.videos, "first_seed": settings.data_seed} | told)


def draw_set(folder: Path, held_out: Path, count: int, first: int, stills: Stills, processes: int) -> str:
    """Draw `count` videos into `folder`, and a few that are not trained on; what they are made of."""
    made_of = f"{__version__} {DRAWN_FORM} {first} {stills.digest}"
    for part, number, seed in ((folder, count, first), (held_out, HELD_OUT, HELD_OUT_SEED + first)):
        keep_only(part, made_of)
        draw_range(part, number, seed, stills=stills.faces, processes=processes)
    return made_of


def train_codec(videos: Path, codec: Path, settings: TrainSettings) -> None:
    """Train the image codec, and then how it writes and draws shut lids; `codec` is the config.json of its diffusers
    folder."""
    use_cores()
    warnings.filterwarnings("ignore", message=".*channels_last.*")
    state, data = codec.parent.with_name("codec.state"), f"{CODEC_FORM} {sha256_file(videos)}"
    held_out = frame_files(videos.parent.with_name("encoded") / "held_out")
    sheets = Sheets(partial(codec_sheet, files=held_out), settings.sample_every)
    net = codec_module.train_codec(videos.parent, state, settings.codec_steps, data=data, sheets=sheets)
    twins, steps = twins_of(frame_files(videos.parent)), ceil(LIDS_SHARE * settings.codec_steps)
    teach_lids(net, twins, state.with_name("lids.state"), steps, data=sha256_file(state / STATE), sheets=sheets)
    net.cpu().save_pretrained(codec.parent)


def train_speech(speech: Path, settings: TrainSettings) -> None:
    """Warm the speech encoder up; `speech` is the config.json of its transformers folder."""
    use_cores()
    state = speech.parent.with_name("speech.state")
    count, steps = settings.utterances, settings.speech_steps
    speech_module.train_speech(state, speech.parent, count, steps, processes=cores())


def encode_videos(videos: Path, codec: Path, speech: Path, encoded: Path) -> None:
    """Encode the videos once for both stages; `encoded` also holds the latents' deviation."""
    use_cores()
    device = Ranks.join().device
    net, encoder = load_codec(codec.parent).to(device), load_speech_encoder(speech.parent).to(device)
    net.to(memory_format=torch.channels_last)
    networks = " ".join(
        sha256_file(path) for part in (codec, speech) for path in sorted(part.parent.glob("*.safetensors"))
    )
    made_of = hashlib.sha256(f"{ENCODED_FORM} {sha256_file(videos)} {networks}".encode()).hexdigest()
    keep_only(encoded.parent, made_of)
    encode_range(videos.parent, net, encoder, encoded.parent)
    write_json(encoded, {"latent_std": latent_deviation(encoded.parent), "made_of": made_of})


def encode_footage(shards: list[Path], start: Path, encoded: Path) -> None:
    """Encode the segments of curated `shards` for both stages, by the networks of the checkpoint whose card is `start`;
    some of those that are not for training are kept as they are in held_out/, to be looked at. `encoded` tells what
    there is, and what could not be used and why."""
    use_cores()
    ranks, cache, arch = Ranks.join(), encoded.parent, read_architecture(start.parent)
    segments = read_segments([path for path in shards if path.name.startswith("train-")])
    others = read_segments([path for path in shards if not path.name.startswith("train-")])[:HELD_OUT]
    mine = {segment.name(): segment for segment in segments[ranks.index :: ranks.count]}
    names = {name for part in ranks.gather(list(mine)) for name in part}
    made_of = hashlib.sha256(" ".join([sha256_file(start), *sorted(names)]).encode()).hexdigest()
    if ranks.is_first:
        clear_cache(cache, names, sha256_file(start))
    ranks.wait()
    skipped = encode_segments(mine, start.parent, arch, cache, ranks.device)
    skipped = sorted(line for lines in ranks.gather(skipped) for line in lines)
    if not ranks.is_first:
        return
    keep_held_out(others, arch, cache / "held_out")
    usable = len(list(cache.glob("*.npz")))
    if not usable:
        why = skipped[0] if skipped else "there is no train-*.tar with a segment"
        raise EnvironmentError(f"train.shards: no segment can be used ({why}); `linker curate` writes them")
    write_json(encoded, {"segments": usable, "skipped": skipped, "made_of": made_of})


def encode_segments(
    segments: dict[str, Segment], start: Path, arch: Architecture, cache: Path, device: torch.device
) -> list[str]:
    """Encode those that are not in `cache` yet, under their names; why others could not be."""
    net = load_codec(start / "codec", arch.latent_channels).to(device).to(memory_format=torch.channels_last)
    encoder = load_speech_encoder(start / "speech", arch.speech_dim).to(device)
    missing = {name: segment for name, segment in segments.items() if not (cache / f"{name}.npz").exists()}
    coming, skipped = decoded(list(missing.values()), arch.sample_px, arch.latent_px, cores()), []
    for number, (name, (segment, found)) in enumerate(zip(missing, coming, strict=True)):
        if isinstance(found, str):
            skipped.append(found)
        else:
            portrait = portrait_of(segment.key, len(found.frames))
            arrays = encode_clip(net, encoder, found.frames, found.samples, found.masks, portrait)
            with atomic(cache / f"{name}.npz") as temporary:
                np.savez(temporary, **arrays)
            heartbeat.advance()
        if number % 50 == 0:
            print(f"encode_footage {number}/{len(missing)}", file=sys.stderr)
    return skipped


def clear_cache(cache: Path, names: set[str], networks: str) -> None:
    """Forget what other networks encoded, and segments that are no longer there."""
    keep_only(cache, f"{ENCODED_FORM} {networks}")
    for path in cache.glob("*.npz"):
        if path.stem not in names:
            path.unlink()


def keep_held_out(segments: list[Segment], arch: Architecture, folder: Path) -> None:
    """Put segments into `folder` as drawn videos lie there."""
    shutil.rmtree(folder, ignore_errors=True)
    for segment, found in decoded(segments, arch.sample_px, arch.latent_px, 1):
        if not isinstance(found, str):
            with atomic(folder / f"{segment.key}.frames.npy") as temporary:
                np.save(temporary, found.frames)
            with atomic(folder / f"{segment.key}.npz") as temporary:
                np.savez(temporary, samples=found.samples, masks=found.masks)


def train_stage1(
    encoded: Path, stage1: Path, codec: Path, speech: Path, settings: TrainSettings, start: list[Path]
) -> None:
    """Stage 1: both nets on single frames, from nothing or from the checkpoint whose card is `start`. `stage1` is the
    finished stage's card."""
    use_cores()
    torch.manual_seed(settings.seed)
    model = LinguaLinker.from_pretrained(start[0].parent) if start else LinguaLinker(architecture(encoded))
    data = " ".join([*(sha256_file(path) for path in (encoded, *start)), deciding(settings, "stage1")])
    train_stage(model.train(), stage_1(settings), encoded.parent, stage1.parent, codec.parent.parent, data)
    if Ranks.join().is_first:
        model.save_pretrained(stage1.parent, {"stage": 1, **begun_with(start[0] if start else None)}, torch.float32)


def train_stage2(
    encoded: Path,
    stage1: Path,
    codec: Path,
    speech: Path,
    weights: Path,
    record: Path,
    curves: Path,
    settings: TrainSettings,
) -> None:
    """Stage 2: windows with time and speech. `weights` is the card of the checkpoint that generation loads; `record`
    and `curves` tell how it came to be."""
    use_cores()
    model = LinguaLinker.from_pretrained(stage1.parent).train()
    state = weights.parent.with_name("stage2")
    data = " ".join([sha256_file(encoded), sha256_file(stage1), deciding(settings, "stage2")])
    train_stage(model, stage_2(settings), encoded.parent, state, codec.parent.parent, data)
    if not Ranks.join().is_first:
        return
    tiny = codec.parent.with_name("tiny")
    for part in (codec.parent, speech.parent, *([tiny] if tiny.is_dir() else [])):
        copy_part(part, weights.parent / part.name)
    runs = {name: codec.parent.with_name(f"{name}.state") for name in ("codec", "lids", "speech")}
    runs |= {"stage1": stage1.parent, "stage2": state}
    draw_curves({name: read_metrics(folder) for name, folder in runs.items()}, curves)
    write_record(record, settings, runs, data)
    told = {"stage": 2, "record": record.name, **settings.model_dump(), **begun_with(stage1)}
    model.save_pretrained(weights.parent, told, torch.float16)


def train_joint(stage2: Path, before: Path, weights: Path, record: Path, curves: Path, settings: TrainSettings) -> None:
    """The end of a training from nothing: the checkpoint whose card is `stage2` and its speech encoder, together, on
    videos of people who come after those of the other parts. `before` is the record of those parts; `weights`, `record`
    and `curves` are of all."""
    use_cores()
    start, state = stage2.parent, weights.parent.with_name("joint")
    model, encoder = LinguaLinker.from_pretrained(start), load_speech_encoder(start / "speech")
    found = find_stills(settings, state / "stills")
    data = f"{prepare_joint(start, state, encoder, settings, found)} {deciding(settings, 'stage2')}"
    train_stage(model.train(), joint(settings), state / "encoded", state, start, data, encoder)
    encoder.save_pretrained(state / "speech")
    for part in (start / "codec", state / "speech"):
        copy_part(part, weights.parent / part.name)
    runs = {name: start.with_name("weights") / f"{name}.state" for name in ("codec", "lids", "speech")}
    runs |= {folder.name: folder for folder in (start.with_name("stage1"), start, state)}
    draw_curves({name: read_metrics(folder) for name, folder in runs.items()}, curves)
    extend_record(record, before, settings, state, {"data": data, "stills": found.names})
    model.save_pretrained(weights.parent, {"stage": 2, "record": record.name, **settings.model_dump()}, torch.float16)


def prepare_joint(start: Path, folder: Path, encoder: torch.nn.Module, settings: TrainSettings, stills: Stills) -> str:
    """Draw that part's videos below `folder` and encode them by the networks of the checkpoint `start`; what all of it
    was made of."""
    videos, encoded, device = folder / "videos", folder / "encoded", Ranks.join().device
    first, count = settings.data_seed + settings.videos, settings.joint_videos
    drawn_of = draw_set(videos, encoded / "held_out", count, first, stills, cores())
    heartbeat.advance()
    networks = json.dumps(read_card(start)["files"], sort_keys=True)  # not the card: it names settings of no weight
    made_of = hashlib.sha256(f"{ENCODED_FORM} {drawn_of} {count} {networks}".encode()).hexdigest()
    keep_only(encoded, made_of)
    net = load_codec(start / "codec").to(device).to(memory_format=torch.channels_last)
    encode_range(videos, net, encoder.to(device), encoded)
    return made_of


def begun_with(card: Path | None) -> dict[str, Any]:
    """The published weights that a checkpoint began with, as the card of the one before it names them."""
    training = read_card(card.parent)["training"] if card else {}
    return {name: training[name] for name in ("sources",) if name in training}


def train_critic(critic: Path, settings: TrainSettings) -> None:
    """Train the sync critic of curation; `critic` is its .safetensors file."""
    use_cores()
    state = critic.with_name("critic.state")
    shards = Path(settings.critic_shards) if settings.critic_shards else None
    trained = critic_module.train_critic(state, settings.critic_pieces, settings.critic_steps, shards=shards)
    with atomic(critic) as temporary:
        save_critic(trained, temporary)
    last = json.loads((state / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    write_json(
        critic.with_suffix(".json"), {"sha256": sha256_file(critic), "settings": settings.model_dump(), "last": last}
    )


def architecture(encoded: Path) -> Architecture:
    """The mini architecture with the statistics of this codec's latents."""
    return Architecture.model_validate(MINI.model_dump() | {"latent_std": read_json(encoded)["latent_std"]})


def copy_part(source: Path, target: Path) -> None:
    """Put a trained network beside the model, in half precision; where it was loaded from is nobody's business."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, dirs_exist_ok=True)
    config = read_json(target / "config.json")
    write_json(target / "config.json", {name: value for name, value in config.items() if name != "_name_or_path"})
    for path in target.glob("*.safetensors"):
        tensors = {name: value.half().contiguous() for name, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})


def use_cores() -> None:
    """As many threads as this process has cores."""
    torch.set_num_threads(cores())
