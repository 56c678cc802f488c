"""What the settings need beside the rows: looked at before any work starts, as it would else be missed hours later."""

from __future__ import annotations

from pathlib import Path

from linker.backends import check_compiler
from linker.config import Settings
from linker.errors import EnvironmentError, SettingsError
from linker.process import resolved


def check_needs(settings: Settings) -> None:
    """Look at what the settings name, and at nothing else. Raises SettingsError for subtitles that nobody can hear;
    EnvironmentError for a compiler, whisper's weights, a network, a font or a key that is missing or unusable, and for
    a font that has not all letters of the label."""
    if settings.generate.compile and resolved(settings.launch).cluster != "slurm":  # its nodes are looked at there
        check_compiler()
    if settings.language.whisper:
        from linker.backends import find_whisper

        find_whisper(settings.language.whisper)
    elif settings.finish.transcribe:
        raise SettingsError("finish.transcribe needs whisper: set language.whisper to its weights")
    if weights := settings.upscale.weights:
        _check_network(Path(weights))
    if settings.finish.label:
        from linker.canvas import draw_label

        draw_label(settings.finish.label, settings.finish.label_font, (256, 256))
    if settings.provenance.certificate or settings.provenance.private_key:
        from linker.signing import load_identity

        load_identity(settings.provenance)


def _check_network(weights: Path) -> None:
    """Load it as upscaling will, but leave the GPU alone."""
    from linker.enlarge import load_network

    if not weights.is_file():
        raise EnvironmentError(f"upscale.weights {weights}: no such file; name one, or clear it for Lanczos")
    load_network(weights, on_gpu=False)
