"""Frames and sound into finished files: one pass over the pictures writes the deliverable and its master."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import OutputContainer

from linker.config import FPS
from linker.formats import PICTURES, rate_for
from linker.media import AudioInfo, Undecodable, audio_chunks, opened, plain, probe, resampled
from linker.mux import Cue, FrameWriter, SoundCopier, SoundWriter, created, write_subtitles


@dataclass(frozen=True)
class Target:
    """One file to write. `codec` is a key of formats.PICTURES, `sound_codec` one of formats.SOUNDS or 'copy'.

    `size` is even in width and height; `language` is BCP-47 and is stored as three letters.
    """

    path: Path
    size: tuple[int, int]
    codec: str = "h264"
    crf: int | None = None
    fps: int = FPS
    sound_codec: str = "aac"
    audio_kbps: int = 192
    language: str = "und"
    metadata: dict[str, str] = field(default_factory=dict)
    cues: tuple[Cue, ...] = ()


def encode(frames: Iterable[np.ndarray], targets: list[Target], audio: Path | None, frame_count: int) -> None:
    """Write every target, whole or not at all: pictures tagged BT.709, a start at 0, the index before the pictures.

    `frames`, uint8 (height, width, 3), come exactly `frame_count` times. Encoded sound is cut, or padded with silence,
    to the length of the pictures. Raises ValueError for frames that do not fit, Undecodable for the sound,
    EnvironmentError for a missing encoder.
    """
    with ExitStack() as stack:
        writers = [stack.enter_context(_writing(target, audio)) for target in targets]
        for frame in frames:
            for pictures, sound, fps in writers:
                pictures.write(frame)
                if sound:
                    sound.write_until(Fraction(pictures.count, fps))
        for pictures, sound, _ in writers:
            if pictures.count != frame_count:
                raise ValueError(f"{pictures.count} frames came, {frame_count} were announced")
            pictures.finish()
            if sound:
                sound.finish()


@contextmanager
def _writing(target: Target, audio: Path | None) -> Iterator[tuple[FrameWriter, SoundWriter | SoundCopier | None, int]]:
    codec = PICTURES[target.codec]
    crf = codec.crf if target.crf is None else target.crf
    options = {**codec.options, **({} if crf is None else {"crf": str(crf)})}
    is_mp4 = target.path.suffix in (".mp4", ".mov")
    flags = {"movflags": "+faststart+use_metadata_tags"} if is_mp4 else {}  # the tags' names as they are, AIGC's too
    tag = codec.tag if is_mp4 else ""
    with ExitStack() as stack:
        container = stack.enter_context(created(target.path, flags))
        container.metadata.update(target.metadata)
        pictures = FrameWriter(container, codec.encoder, codec.pix_fmt, target.size, target.fps, options, tag)
        sound = _sound(container, audio, target, stack) if audio else None
        if target.cues:
            write_subtitles(container, list(target.cues), target.language)
        yield pictures, sound, target.fps


def _sound(container: OutputContainer, audio: Path, target: Target, stack: ExitStack) -> SoundWriter | SoundCopier:
    """The row's own sound: its packets as they are, or encoded at its own rate, mono or stereo."""
    info = sound_info(audio)
    if target.sound_codec == "copy":
        return SoundCopier(container, stack.enter_context(opened(audio)), target.language)
    layout = "mono" if info.channels == 1 else "stereo"
    rate_hz = rate_for(target.sound_codec, info.sample_rate_hz)
    pieces = (piece for piece, _ in resampled(audio_chunks(audio, layout=layout), rate_hz))
    return SoundWriter(container, pieces, layout, rate_hz, target.language, target.audio_kbps, target.sound_codec)


def sound_info(audio: Path) -> AudioInfo:
    """What a file says of its first sound track. Raises Undecodable."""
    info = probe(audio).audio
    if info is None:
        raise Undecodable("no_audio", f"{plain(audio)}: holds no sound track")
    return info
