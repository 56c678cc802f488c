"""What a deliverable can be: codecs with their encoders, containers with the sound they carry, frame rates."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from linker.config import FPS, FinishSettings

# Matrix, primaries, transfer and range (1 = video, 2 = full), as ISO/IEC 23091-2 numbers them.
BT709, RGB709 = (1, 1, 1, 1), (0, 1, 1, 2)


@dataclass(frozen=True)
class PictureCodec:
    """An encoder and how it is called. `decoded` is the codec's name when read back; `tag` the MP4 sample entry."""

    encoder: str
    decoded: str
    pix_fmt: str
    options: dict[str, str]
    crf: int | None = None
    tag: str = ""
    colours: tuple[int, int, int, int] = BT709


@dataclass(frozen=True)
class SoundCodec:
    """An encoder of sound; `rates_hz` empty = any."""

    encoder: str
    rates_hz: tuple[int, ...] = ()
    options: tuple[tuple[str, str], ...] = ()


PICTURES = {
    "h264": PictureCodec("libx264", "h264", "yuv420p", {"preset": "medium", "profile": "high"}, 17),
    "h265": PictureCodec(
        "libx265", "hevc", "yuv420p",
        {"preset": "medium", "x265-params": "pools=1:frame-threads=1:log-level=none:info=0"}, 19, "hvc1",
    ),
    "av1": PictureCodec("libsvtav1", "av1", "yuv420p", {"preset": "8", "svtav1-params": "lp=1"}, 24),
    "prores": PictureCodec("prores_ks", "prores", "yuv422p10le", {"profile": "hq", "vendor": "apl0"}),
    "ffv1": PictureCodec("ffv1", "ffv1", "bgr0", {"level": "3", "slicecrc": "1", "g": "1"}, colours=RGB709),
}  # fmt: skip
MASTERS = {"prores": "mov", "ffv1": "mkv"}
# Without PNS: with it, AAC replaces what sounds like noise by noise of its own.
# AAC ends on a whole packet of 1024 samples: at lower rates than these that is longer than a video frame.
SOUNDS = {
    "aac": SoundCodec("aac", (32000, 44100, 48000, 64000, 88200, 96000), (("aac_pns", "0"),)),
    "opus": SoundCodec("libopus", (48000,)),
    "pcm": SoundCodec("pcm_s24le"),
}
# Sound that is copied packet by packet and comes out sample for sample where it went in (MP3 in any of these, and AAC
# with an edit list in Matroska, come out 21 to 26 ms late). "auto" takes only what every player of the container plays.
COPIED = {
    "mp4": {"auto": {"aac"}, "aac": {"aac"}, "opus": {"opus"}},
    "mkv": {"auto": {"flac", "opus", "pcm_s16le", "pcm_s24le"}, "aac": set(), "opus": {"opus"}},
}


def is_copied(source_codec: str, settings: FinishSettings) -> bool:
    """True when the row's own sound goes into the container as it is."""
    untouched = settings.loudness_lufs == "as_is"
    return untouched and source_codec in COPIED[settings.container][settings.audio_codec]


def sound_codec(settings: FinishSettings) -> str:
    """The codec of sound that is not copied."""
    return "opus" if settings.audio_codec == "opus" else "aac"


def rate_for(codec: str, rate_hz: int) -> int:
    """The rate itself where the codec has it, otherwise 48 kHz."""
    rates = SOUNDS[codec].rates_hz
    return rate_hz if not rates or rate_hz in rates else 48_000


def frame_count(duration_s: float, fps: int = FPS) -> int:
    """Pictures in a clip of this length: the nearest whole number, at least one."""
    return max(1, round(duration_s * fps))


def source_frame(index: int, fps: int, frames: int) -> int:
    """Which of the model's `frames` (25 a second) is shown as picture `index`: the one nearest to its middle."""
    middle = Fraction(2 * index + 1, 2 * fps) * FPS
    return min(int(middle), frames - 1)
