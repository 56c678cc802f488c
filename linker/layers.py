"""Where settings come from, later ones winning: config/config.yaml, a profile, a file of the user's, `--set`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from linker.config import ROOT_DIR, Group, Settings, read_settings
from linker.errors import SettingsError

WORKFLOW_KEYS = ("manifest", "results", "rows", "part", "footage", "check_videos")  # no settings
Layer = dict[str, Any]


def settings_of(config: Layer, where: str) -> Settings:
    """The settings in a workflow's configuration. Raises SettingsError."""
    return read_settings({key: value for key, value in config.items() if key not in WORKFLOW_KEYS}, where)


FILES = {  # settings that name files or folders
    "generate": ("weights",),
    "language": ("whisper",),
    "curate": ("syncnet",),
    "train": ("start", "shards", "critic_shards"),
    "upscale": ("weights",),
    "finish": ("label_font",),
    "provenance": ("certificate", "private_key"),
}


def anchored(settings: Settings, folder: Path) -> Settings:
    """Settings whose files and folders, where they lie below `folder`, are named by absolute paths."""
    groups = {name: getattr(settings, name) for name in FILES}
    changed = {
        name: group.model_copy(update={key: _anchored(getattr(group, key), folder) for key in FILES[name]})
        for name, group in groups.items()
    }
    return settings.model_copy(update=changed)


def _anchored(name: str, folder: Path) -> str:
    return str(folder / name) if name and name != "mini" and (folder / name).exists() else name


def layered(profile: Path | None, file: Path | None, assignments: list[str]) -> Layer:
    """The merged configuration, without the manifest and the results folder."""
    layers = [read_layer(ROOT_DIR / "config" / "config.yaml")]
    if profile and (profile / "settings.yaml").is_file():
        layers.append(read_layer(profile / "settings.yaml"))
    if file:
        layers.append(read_layer(file))
    layers += [parse_assignment(words) for words in assignments]
    merged: Layer = {}
    for layer in layers:
        merged = merge(merged, layer)
    return {key: value for key, value in merged.items() if key not in WORKFLOW_KEYS}


def read_layer(path: Path) -> Layer:
    """A YAML file of setting groups. Raises SettingsError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({error}); give an existing YAML file") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: found {type(values).__name__}, needed setting groups such as 'finish:'")
    return values


def parse_assignment(words: str) -> Layer:
    """`finish.crf=20` as {"finish": {"crf": 20}}. Raises SettingsError."""
    name, equals, value = words.partition("=")
    group, dot, key = name.strip().partition(".")
    if not (equals and dot and group and key):
        raise SettingsError(f"--set {words}: needed group.key=value, for example finish.crf=20")
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        read = value
    return {group: {key: value if isinstance(read, dict) else read}}  # no setting is a mapping: words with a colon


def settings_table() -> str:
    """config/README.md: every setting with its default, range and meaning."""
    lines = [
        "# Settings",
        "",
        "Made from `linker/config.py` by `python -m linker.layers > config/README.md`; a test compares them.",
        "",
        "`config.yaml` holds only what differs from these defaults. For one run: `--set group.key=value`, or a file of",
        "the same form with `--settings FILE`. A changed setting reruns the steps of its group and what follows them.",
    ]
    for name, group in Settings.model_fields.items():
        kind = cast(type[Group], group.annotation)
        lines += ["", f"## {name}", "", (kind.__doc__ or "").strip(), "", "| key | default | range | meaning |"]
        lines += ["|---|---|---|---|", *(_row(key, field) for key, field in kind.model_fields.items())]
    return "\n".join(lines) + "\n"


def _row(key: str, field: FieldInfo) -> str:
    default = "" if field.default is None else f"`{field.default!r}`".replace("'", "")
    return f"| `{key}` | {default.replace('``', '')} | {_range(field)} | {field.description} |"


def _range(field: FieldInfo) -> str:
    """'0 to 40', or the words that may be chosen from."""
    kinds = (field.annotation, *get_args(field.annotation))  # the second are those of `X | None`
    for kind in kinds:
        if get_origin(kind) is Literal:
            return ", ".join(f"`{word}`" for word in get_args(kind))
    bounds = {
        word: getattr(item, word) for item in field.metadata for word in ("ge", "gt", "le", "lt") if hasattr(item, word)
    }
    low = f"above {bounds['gt']}" if "gt" in bounds else f"{bounds.get('ge', '')}"
    high = f"below {bounds['lt']}" if "lt" in bounds else f"{bounds.get('le', '')}"
    return f"{low} to {high}" if bounds else ""


def merge(low: Layer, high: Layer) -> Layer:
    """Both layers; `high` wins where a key is in both."""
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


if __name__ == "__main__":
    print(settings_table(), end="")
