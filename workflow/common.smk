"""Tables and input functions of the rules; no rules here.

Reads the settings and the manifest once. Only ids that the manifest's reader accepted become wildcards.
"""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

from linker.config import (
    CODEC_FORM,
    CRITIC_DIR,
    CRITIC_FORM,
    DRAWN_FORM,
    ENCODED_FORM,
    MEASURED_FORM,
    MINI_DIR,
    ROOT_DIR,
    SPEECH_FORM,
    token,
)
from linker.footage import read_footage
from linker.layers import anchored, settings_of
from linker.manifest import read_manifest
from linker.process import resolved, visible_gpus
from linker.records import ID_PATTERN
from linker.shards import digest, row_delivery, row_token, rows_by_shard, video_names
from linker.train.presets import start_folder

SETTINGS = anchored(settings_of(config, "config"), Path(workflow.workdir_init))
MANIFEST = read_manifest(Path(config["manifest"]))
ROWS = {row.clip: row for row in MANIFEST.rows}
PORTRAITS = {row.portrait_id: row for row in MANIFEST.rows}
AUDIOS = {row.audio_id: row for row in MANIFEST.rows}
SHARDS = rows_by_shard(MANIFEST.rows, SETTINGS.generate.shards)
VIDEOS = {video.id: video for video in read_footage(Path(config["footage"])).videos} if config.get("footage") else {}
CHECK_VIDEOS, CHECK_SHARES = int(config.get("check_videos", 400)), 8
SHARD_OF = {row.clip: shard for shard, rows in SHARDS.items() for row in rows}

# Jobs find this interpreter and this package from any folder; `exec` makes the step Snakemake's own child, so that it
# gets its signals. The launch settings travel beside the parameters: where a job runs never decides whether it reruns.
ENVIRONMENT = {"PYTHONPATH": str(ROOT_DIR), "LINKER_LAUNCH": token(SETTINGS.launch)}
EXPORTS = " ".join(f"{name}={shlex.quote(value)}" for name, value in ENVIRONMENT.items())
EXPORTS = EXPORTS.replace("{", "{{").replace("}", "}}")  # the prefix is a format string
shell.prefix(f"export {EXPORTS} PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; exec ")

VIDEO_OF = video_names(MANIFEST.rows, SETTINGS.generate, SETTINGS.finish)


wildcard_constraints:
    clip=ID_PATTERN,
    portrait=r"[a-z0-9-]+\.[0-9a-f]{8}",
    audio=r"[a-z0-9-]+\.[0-9a-f]{8}",
    shard=r"s\d{3,4}",
    video=r"[a-z0-9-]+\.[0-9a-f]{8}",
    share=r"\d",


def portrait_source(wildcards):
    """The portrait as the manifest names it."""
    return str(PORTRAITS[wildcards.portrait].portrait)


@cache
def identity(path):
    """Size and date of a file: as a parameter, they notice one that was replaced by an older one, too."""
    try:
        found = Path(path).stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def portrait_identity(wildcards):
    """What tells whether a portrait is still the same file."""
    return identity(portrait_source(wildcards))


def audio_identity(wildcards):
    """What tells whether an audio is still the same file."""
    return identity(audio_source(wildcards))


def portrait_choice(wildcards):
    """Which face of the portrait: '', an index, or a box."""
    return PORTRAITS[wildcards.portrait].face


def audio_source(wildcards):
    """The audio as the manifest names it."""
    return str(AUDIOS[wildcards.audio].audio)


def of_portrait(name):
    """Input function: a file of the row's portrait preparation."""

    def path(wildcards):
        return f"portraits/{ROWS[wildcards.clip].portrait_id}/{name}"

    return path


def of_audio(name):
    """Input function: a file of the row's audio preparation."""

    def path(wildcards):
        return f"audio/{ROWS[wildcards.clip].audio_id}/{name}"

    return path


def row_portrait(wildcards):
    """The portrait of a row, at its own resolution."""
    return str(ROWS[wildcards.clip].portrait)


def row_audio(wildcards):
    """The audio of a row, at its own quality."""
    return str(ROWS[wildcards.clip].audio)


def row_subtitles(wildcards):
    """The row's subtitles; nothing where it names none."""
    return [str(path)] if (path := ROWS[wildcards.clip].subtitles) else []


def subtitles_identity(wildcards):
    """What tells whether the row's subtitles are still the same file; the others are told where they are prepared."""
    return [identity(path) for path in row_subtitles(wildcards)]


def row_video(wildcards):
    """Where the row's deliverable appears."""
    return f"videos/{VIDEO_OF[wildcards.clip]}"


def row_sidecar(wildcards):
    """Where what is told of the row's deliverable appears."""
    return f"videos/{wildcards.clip}.json"


def row_ledger(wildcards):
    """The ledger that a row's generation is written into."""
    return f"shards/{SHARD_OF[wildcards.clip]}/ledger.json"


def awaited_ledger(wildcards):
    """The ledger as something to wait for; nothing where rows that are settled are looked at by themselves."""
    return [] if config.get("rows") == "settled" else row_ledger(wildcards)


def is_settled(clip):
    """True when an earlier run generated the clip, from these settings and inputs or from others."""
    return Path(f"clips/{clip}/generated.mkv").exists()


def wanted_files():
    """What `all` makes: every row's video; by the choice of `python3 -m linker run`, of new or of settled rows alone."""
    chosen, part = config.get("rows", "all"), planned_part()
    clips = [clip for clip in part if chosen == "all" or is_settled(clip) == (chosen == "settled")]
    ledgers = {} if chosen == "settled" else {f"shards/{SHARD_OF[clip]}/ledger.json": clip for clip in part}
    return [*ledgers, *(f"clips/{clip}/delivered.json" for clip in clips)]


def planned_part():
    """All clips, shard by shard; of a large manifest, the part that this process plans: `part` is 'number/parts'."""
    clips = [row.clip for rows in SHARDS.values() for row in rows]
    number, parts = map(int, config.get("part", "0/1").split("/"))
    return clips[number * len(clips) // parts : (number + 1) * len(clips) // parts]


def shard_files(wildcards):
    """Every prepared file that a shard's rows need, once each."""
    rows = SHARDS[wildcards.shard]
    faces = [f"portraits/{row.portrait_id}/{name}" for row in rows for name in ("face.png", "crop.json", "masks.npz")]
    audio = [f"audio/{row.audio_id}/{name}" for row in rows for name in ("driver.wav", "loudness.json")]
    return list(dict.fromkeys(faces + audio))


def shard_digest(wildcards):
    """Changes when a row of the shard, or a setting of generation, changes."""
    return digest(SHARDS[wildcards.shard], SETTINGS.generate)


@cache
def weights_files():
    """The checkpoint's files: new weights make new clips."""
    folder = MINI_DIR if SETTINGS.generate.weights == "mini" else Path(SETTINGS.generate.weights)
    return sorted(str(path) for pattern in ("*.safetensors", "*.json") for path in folder.rglob(pattern))


@cache
def weights_card():
    """The checkpoint's card, which names the hashes of all its files: what a row's frames are held against."""
    return [path for path in weights_files() if Path(path).name == "lingualinker.json"]


def generation(wildcards):
    """Everything but files that decides a row's generated frames."""
    return row_token(ROWS[wildcards.clip], SETTINGS.generate)


def delivery(wildcards):
    """What the deliverable tells about its row."""
    return row_delivery(ROWS[wildcards.clip])


def finishing(wildcards):
    """The settings of `finish`: as a function's value, their {holes} are not taken for wildcards."""
    return token(SETTINGS.finish)


def marking(wildcards):
    """The settings of `provenance`, in which a producer's name may hold braces."""
    return token(SETTINGS.provenance)


def launched_threads():
    """All cores where the model runs in this process; one where the job only waits for a worker elsewhere."""
    return workflow.cores if resolved(SETTINGS.launch).cluster == "debug" and workflow.cores else 1


def upscaler_files():
    """The weights of the user's own upscaling network; nothing without one."""
    return [SETTINGS.upscale.weights] if SETTINGS.upscale.weights else []


def upscaler_gpus():
    """GPUs that upscaling takes where this command runs: a network one, Lanczos none."""
    return 1 if SETTINGS.upscale.weights and visible_gpus() else 0


def write_report():
    """status.tsv and the page of all rows, failed ones too; a fault of the report never hides the run's own outcome."""
    words = ["report", "--results", ".", "--status", "status.tsv", "--page", "report/index.html"]
    words += ["--manifest", config["manifest"], "--log", "logs/report/report.log"]
    subprocess.run([sys.executable, "-P", "-m", "linker.cli", *words], env={**os.environ, **ENVIRONMENT}, check=False)


def told_identity(wildcards):
    """Changes when something that the report tells was made, again or for the first time."""
    names = ("videos/*.json", "draft/*.json", "shards/*/ledger.json", "portraits/*/crop.json", "audio/*/loudness.json")
    told = [f"{path} {identity(path)}" for name in names for path in sorted(Path().glob(name))]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def video_source(wildcards):
    """The file of a piece of footage."""
    return str(VIDEOS[wildcards.video].path)


def video_identity(wildcards):
    """What tells whether a piece of footage is still the same file."""
    return identity(video_source(wildcards))


def of_videos(name):
    """A file of every piece of footage, in the listing's order."""
    return [f"footage/{video}/{name}" for video in VIDEOS]


def heard_languages():
    """What whisper hears in footage whose language nobody names, where its weights are set."""
    unnamed = [video.id for video in VIDEOS.values() if not video.language] if SETTINGS.language.whisper else []
    return [f"footage/{video}/language.json" for video in unnamed]


def syncnet_weights():
    """SyncNet's weights where the user gave some."""
    return [SETTINGS.curate.syncnet] if SETTINGS.curate.syncnet else []


def syncnet_embeddings(wildcards):
    """SyncNet's embeddings where it is to judge; nothing where our own critic does."""
    return [f"footage/{wildcards.video}/syncnet.npz"] if SETTINGS.curate.syncnet else []


def footage_digest():
    """Changes when a video or what the list says of it does."""
    return hashlib.sha256(repr(list(VIDEOS.values())).encode()).hexdigest()[:16]


def measuring():
    """The settings of curation that decide what is measured; thresholds only judge."""
    measured = ("max_video_s", "max_video_mb", "min_fps")
    return json.dumps({name: getattr(SETTINGS.curate, name) for name in measured}, sort_keys=True)


def rows_digest():
    """Changes when any row does."""
    return digest(list(MANIFEST.rows), SETTINGS.generate)


STAGE_1_SETTINGS = (
    *("preset", "seed", "learning_rate", "stage1_steps", "stage1_batch", "accumulate", "checkpointing", "dtype"),
    *("spike", "save_every", "sample_every"),
)


def training(*names):
    """These settings of training as one token: a change of the others does not rerun a step."""
    return json.dumps({name: getattr(SETTINGS.train, name) for name in names}, sort_keys=True)


# Of a training from nothing, stage 2 has a last part, which makes the model; else the model is stage 2's.
FROM_NOTHING = SETTINGS.train.preset == "mini" and not SETTINGS.train.start
STAGE2_DIR = f"training/{'stage2' if FROM_NOTHING else SETTINGS.train.preset}"
JOINT_DIR = f"training/{SETTINGS.train.preset if FROM_NOTHING else 'joint'}"


def part_config(part):
    """Input function: the image codec or the speech encoder, from the checkpoint that training starts from or trained."""

    def path(wildcards):
        return f"{start_folder(SETTINGS.train) or 'training/weights'}/{part}/config.json"

    return path


def start_card(wildcards):
    """The card of the checkpoint that training starts from; nothing where all is trained anew."""
    folder = start_folder(SETTINGS.train)
    return [str(folder / "lingualinker.json")] if folder else []


def encoded_videos(wildcards):
    """What the stages are trained on: the user's footage, or drawn videos."""
    return f"training/{'footage' if SETTINGS.train.shards else 'encoded'}/encoded.json"


def training_shards(wildcards):
    """The shards of curated footage."""
    return sorted(str(path) for path in Path(SETTINGS.train.shards).glob("*-[0-9]*.tar"))
