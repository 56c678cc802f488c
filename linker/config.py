"""Every setting, declared once: name (with its unit), default, range, meaning. Frozen once read.

`config/config.yaml` holds only what differs from these defaults; `config/README.md` is generated from this file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from linker.errors import SettingsError

FPS = 25  # frames a second of the model and of every intermediate (section 4.1)
SAMPLE_RATE_HZ = 16_000  # what the speech encoder hears
FACE_PX = 512  # side of the square portrait crop
EYES_Y, MOUTH_Y = 0.4375, 0.672  # where crops have their eyes and mouth, in training and at work, shares of the side
REGIONS = ("head", "mouth", "eyes")  # the order of every per-region tensor
# Of what curation measures of a video, of drawn training videos, of codec, speech encoder and sync critic, of encoded
# videos: raise a number when what they hold changes, and all are made anew.
MEASURED_FORM = 3
DRAWN_FORM = 5
CODEC_FORM = 3
SPEECH_FORM = 2
CRITIC_FORM = 1
ENCODED_FORM = 4
PACKAGE_DIR = Path(__file__).resolve().parent
ROOT_DIR = PACKAGE_DIR.parent
MINI_DIR = ROOT_DIR / "workflow" / "resources" / "mini"
CRITIC_DIR = ROOT_DIR / "workflow" / "resources" / "critic"


class Group(BaseModel):
    """A closed, frozen group of settings: a misspelt name is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # a step builds the groups that it uses


class Preset(NamedTuple):
    """A bundle of generation's settings; README says what each costs."""

    steps: int
    guidance_scale: float
    sampler: str
    decoder: str


PRESETS = {  # by the size of the model: "base", or any other
    "mini": {
        "quality": Preset(4, 1.0, "ddim", "codec"),
        "balanced": Preset(2, 1.0, "ddim", "codec"),
        "draft": Preset(1, 1.0, "ddim", "codec"),
    },
    "base": {
        "quality": Preset(25, 3.5, "ddim", "codec"),
        "balanced": Preset(12, 3.5, "unipc", "codec"),
        "draft": Preset(4, 1.0, "ddim", "tiny"),
    },
}


class LimitSettings(Group):
    """What is accepted from outside."""

    min_audio_s: float = Field(0.2, ge=0.04, le=60, description="shortest accepted speech, seconds")
    max_audio_s: float = Field(3600, ge=1, le=86_400, description="longest accepted speech, seconds")
    max_audio_mb: float = Field(2000, gt=0, le=100_000, description="largest audio file, megabytes")
    max_image_mb: float = Field(100, gt=0, le=10_000, description="largest portrait file, megabytes")
    max_image_megapixels: float = Field(100, gt=0, le=1000, description="largest portrait, megapixels")
    min_image_px: int = Field(64, ge=16, le=4096, description="smallest side of a portrait, pixels")


class AudioSettings(Group):
    """normalize_audio: what the model hears."""

    target_lufs: float = Field(-23.0, ge=-40, le=-10, description="EBU R128 loudness of the driver, LUFS")
    silence_lufs: float = Field(
        -60.0, ge=-90, le=-30, description="at or below this loudness the audio counts as silent"
    )
    speech_threshold: float = Field(
        0.5, gt=0, lt=1, description="voice activity: probability from which a frame is speech"
    )


class LanguageSettings(Group):
    """detect_language: openai-whisper on windows with speech."""

    whisper: str = Field("", description="weights: a .pt file or a model name such as 'small'; empty = do not detect")
    windows: int = Field(4, ge=1, le=64, description="30 s windows with speech that vote")
    min_speech_s: float = Field(5.0, ge=0, le=600, description="under this much speech the language stays 'und'")
    min_agreement: float = Field(0.6, ge=0.3, le=1, description="mean probability the winner needs")


class FaceSettings(Group):
    """crop_face and extract_masks."""

    min_confidence: float = Field(0.5, ge=0.1, le=0.99, description="face detector's confidence")
    min_face_px: int = Field(40, ge=16, le=1024, description="smallest accepted face height, source pixels")
    mouth_margin: float = Field(0.06, ge=0, le=0.5, description="dilation of the mouth mask, in face heights")
    eyes_margin: float = Field(0.055, ge=0, le=0.5, description="dilation of the eyes mask, in face heights")
    head_margin: float = Field(0.12, ge=0, le=0.5, description="dilation of the head mask, in face heights")


class GenerateSettings(Group):
    """generate: the gated diffusion model."""

    weights: str = Field("mini", description="'mini' (embedded) or a folder with a LinguaLinker checkpoint")
    preset: Literal["quality", "balanced", "draft"] = Field("balanced", description="steps and guidance as a bundle")
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps; empty = the preset's")
    guidance_scale: float | None = Field(
        None, ge=1, le=20, description="classifier-free guidance; empty = the preset's"
    )
    sampler: Literal["ddim", "unipc", "lcm", "tcd"] | None = Field(
        None, description="diffusers scheduler; empty = the preset's"
    )
    decoder: Literal["codec", "tiny"] | None = Field(
        None,
        description="codec = the checkpoint's own (KL at base size), tiny = AutoencoderTiny; empty = the preset's",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto = bfloat16 where the processor or GPU has it"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of rows that name none")
    background_strength: float = Field(
        1.0, ge=0, le=1, description="section 3.2, in whole steps: 1 = off, 0 = background frozen to the portrait's"
    )
    rows_together: int | None = Field(
        None, ge=1, le=64, description="rows of a shard denoised side by side; empty = 4 on a GPU, else 1"
    )
    compile: bool = Field(
        False, description="torch.compile the denoising net: minutes at first, then kept; needs a C++ compiler"
    )
    shards: int = Field(
        1,
        ge=1,
        le=1000,
        description="groups of rows, each made by its own workers; finishing begins when a group is made",
    )


class BackgroundSettings(Group):
    """stabilize_background: what lies outside the moving head."""

    feather: float = Field(0.05, ge=0, le=0.5, description="feather of the head mask, in crop sides")
    margin: float = Field(0.02, ge=0, le=0.5, description="dilation of the head mask before the feather, in crop sides")
    follow: float = Field(
        0.15, ge=0, le=1, description="how far beyond the mask the blend follows a moved head, in crop sides"
    )


class UpscaleSettings(Group):
    """upscale_video: from the model's square to the crop's size in the deliverable."""

    weights: str = Field(
        "", description="a file with an upscaling or restoring network (.safetensors, .pth); empty = Lanczos"
    )
    tile_px: int = Field(256, ge=32, le=2048, description="side of the tiles a network sees, its input's pixels")
    hold_levels: float = Field(
        3.0, ge=0, le=32, description="changes of the input under this (of 255) keep a network's last pixels"
    )


class FinishSettings(Group):
    """upscale_video and mux_audio: the deliverable."""

    layout: Literal["portrait", "crop"] = Field(
        "portrait", description="paste back into the whole portrait, or the crop alone"
    )
    aspect: Literal["as_is", "16x9", "9x16", "1x1", "4x5"] = Field(
        "as_is", description="width to height; what the picture does not fill is padding"
    )
    fill: Literal["blur", "black"] = Field("blur", description="padding: the picture itself, blurred, or black")
    factor: float = Field(1.0, ge=0.25, le=8, description="size of the picture relative to the portrait's own")
    side_px: int | None = Field(None, ge=128, le=7680, description="longest side, in place of `factor`; may enlarge")
    max_side_px: int = Field(1080, ge=128, le=7680, description="the longest side is at most this, pixels")
    paste_feather: float = Field(
        0.05, ge=0, le=0.5, description="feather where the crop melts into the portrait, in crop sides"
    )
    fps: Literal[24, 25, 30, 50] = Field(25, description="frames a second: the nearest of the model's 25 is shown")
    container: Literal["mp4", "mkv"] = Field("mp4", description="of the deliverable")
    codec: Literal["h264", "h265", "av1"] = Field("h264", description="of the deliverable's pictures")
    crf: int | None = Field(None, ge=0, le=63, description="constant rate factor; empty = 17, 19, 24 by codec")
    master: Literal["none", "prores", "ffv1"] = Field(
        "none", description="a second file for editing in masters/: ProRes 422 HQ (.mov) or lossless FFV1 (.mkv)"
    )
    audio_codec: Literal["auto", "aac", "opus"] = Field(
        "auto", description="auto = the row's own sound as it is where the container's players know it, otherwise AAC"
    )
    audio_kbps: int = Field(192, ge=32, le=512, description="bit rate of sound that has to be encoded")
    loudness_lufs: Literal["as_is", -16, -23, -24] = Field(
        "as_is", description="EBU R128 loudness of the sound; true peaks stay under -1 dBTP"
    )
    transcribe: bool = Field(False, description="subtitles by whisper (language.whisper) for rows that name none")
    label: str = Field("", max_length=60, description="text burned in at the top right, for example AI-generated")
    label_font: str = Field(
        "", description="font file (.ttf, .otf) for labels with other letters than those of English"
    )
    name: str = Field(
        "{clip}",
        pattern=r"^([a-z0-9._-]|\{(clip|language|portrait|audio|seed|aspect|fps)\})+$",
        description="name of the file; also {portrait} {audio} {seed} {aspect} {fps} and the row's own {language}",
    )
    failed_checks: Literal["hold", "deliver"] = Field(
        "hold", description="hold = a video that fails a check stays in draft/"
    )

    @property
    def geometry(self) -> FinishSettings:
        """Only what decides sizes; the rest as declared: other changes leave upscaled frames as they are."""
        names = ("layout", "aspect", "factor", "side_px", "max_side_px")
        return FinishSettings(**{name: getattr(self, name) for name in names})


class ProvenanceSettings(Group):
    """mux_audio: how a deliverable says that it was generated."""

    certificate: str = Field("", description="PEM file, signing certificate first; with it and its key C2PA is signed")
    private_key: str = Field("", description="PEM file, not encrypted: EC P-256/384/521, RSA or Ed25519")
    test_key: bool = Field(False, description="sign with a key made for the occasion, which proves nothing")
    producer: str = Field("LinguaLinker", min_length=1, max_length=120, description="who answers for the video")


class LaunchSettings(Group):
    """Where GPU work runs; the slurm/ profile overrides these and nothing else does."""

    cluster: Literal["auto", "debug", "local", "slurm"] = Field(
        "auto",
        description="debug = in this process, local = processes of this machine, slurm; "
        "auto (and slurm where there is no sbatch) = local with a GPU, debug without",
    )
    workers: int = Field(
        0,
        ge=0,
        le=1000,
        description="workers of a shard at a time, an array on SLURM; 0 = one a visible GPU; "
        "where cluster is slurm and there is no sbatch, always that",
    )
    partition: str = Field("", description="SLURM partition; empty = the cluster's default")
    account: str = Field("", description="SLURM account")
    qos: str = Field("", description="SLURM quality of service")
    gres: str = Field("", description="SLURM generic resources of a worker such as 'gpu:a100:1', instead of `gpus`")
    constraint: str = Field("", description="SLURM features that nodes must have")
    exclude: str = Field("", description="SLURM nodes that are not used")
    gpus: int = Field(0, ge=0, le=16, description="GPUs a worker; of a training stage: a process for each of them")
    nodes: int = Field(1, ge=1, le=1024, description="SLURM nodes of a training stage, each with so many GPUs")
    cpus: int = Field(2, ge=1, le=256, description="CPU cores a worker")
    memory_gb: int = Field(8, ge=1, le=4096, description="memory a worker, GB")
    time_min: int = Field(240, ge=1, le=43_200, description="time limit a worker, minutes; then it is queued again")
    prologue: list[str] = Field([], description="shell lines before a worker starts, such as 'module load cuda'")
    python: str = Field(
        "", description="command that starts Python on a node, such as 'apptainer exec --nv image.sif python3'"
    )


class TrainSettings(Group):
    """train: a model from data that this project draws and speaks, or from curated footage."""

    preset: Literal["mini", "base"] = Field("mini", description="size of the model, and what follows from it")
    start: str = Field(
        "", description="checkpoint folder to start from ('mini' = the embedded one); its codec and speech encoder stay"
    )
    shards: str = Field("", description="folder of shards that curate wrote, in place of drawn videos; needs `start`")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of both stages' first weights, draws and noise")
    data_seed: int = Field(0, ge=0, le=2**31 - 1, description="of the first drawn video; the next ones follow")
    videos: int = Field(1200, ge=4, le=1_000_000, description="drawn training videos of about 2 s")
    stills: str = Field(
        "",
        description="folder of portraits for 2 of 5 videos, each for up to 1 of 10; empty = a photograph at the end",
    )
    utterances: int = Field(5000, ge=16, le=1_000_000, description="2 s pieces of speech for the speech encoder")
    codec_steps: int = Field(4000, ge=1, le=10_000_000, description="steps of the image codec; shut lids: 3/10 more")
    speech_steps: int = Field(2000, ge=1, le=10_000_000, description="steps of the speech encoder, 16 pieces each")
    learning_rate: float | None = Field(None, gt=0, le=1, description="of both stages; empty = the preset's")
    stage1_steps: int | None = Field(None, ge=1, le=10_000_000, description="steps of stage 1; empty = the preset's")
    stage1_batch: int | None = Field(
        None, ge=1, le=4096, description="frames of a step and process in stage 1; empty = the preset's"
    )
    stage2_steps: int | None = Field(None, ge=1, le=10_000_000, description="steps of stage 2; empty = the preset's")
    stage2_batch: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="windows of 12 + 4 frames of a step and process in stage 2; empty = the preset's",
    )
    joint_videos: int = Field(300, ge=4, le=1_000_000, description="further videos, the speech encoder trained along")
    joint_steps: int = Field(400, ge=1, le=10_000_000, description="steps of that last part of a training from nothing")
    accumulate: int = Field(1, ge=1, le=1024, description="batches whose gradients make one step")
    checkpointing: bool = Field(False, description="compute activations again in the backward pass: less memory")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of matrices (weights stay float32); auto = bfloat16 where the processor or GPU has it"
    )
    spike: float = Field(10.0, ge=0, le=1e6, description="a loss so many times the recent median stops; 0 = never")
    save_every: int = Field(250, ge=1, le=1_000_000, description="steps between two states of a stage")
    sample_every: int = Field(500, ge=0, le=10_000_000, description="steps between two sample videos; 0 = none")
    critic_pieces: int = Field(5000, ge=64, le=10_000_000, description="4.4 s pieces of speech for the sync critic")
    critic_shards: str = Field("", description="folder of shards that curate wrote; they join the critic's training")
    critic_steps: int = Field(4000, ge=1, le=10_000_000, description="steps of the sync critic, 40 pieces each")


class CurateSettings(Group):
    """curate: what becomes of footage. A moved threshold judges again from what was measured; nothing is decoded."""

    max_video_s: float = Field(3600, ge=1, le=36_000, description="longest accepted video, seconds")
    max_video_mb: float = Field(20_000, gt=0, le=1_000_000, description="largest accepted video, megabytes")
    min_fps: float = Field(20, ge=1, le=120, description="slowest accepted frame rate")
    min_segment_s: float = Field(3, ge=3, le=60, description="shortest segment, seconds")
    max_segment_s: float = Field(
        20, ge=6, le=120, validate_default=True, description="longest segment, seconds; at least twice the shortest"
    )
    min_face_px: float = Field(80, ge=16, le=4096, description="cut: smallest face height, source pixels")
    max_yaw: float = Field(0.8, gt=0, le=1, description="cut: sine of the turn from which a face is a profile")
    occlusion: float = Field(0.18, gt=0, le=1, description="stage 1: share of the face that may be covered")
    scene: float = Field(1.1, gt=0, le=100, description="stage 2: strongest change, 1 = the detectors' thresholds")
    sync_confidence: float = Field(0.7, ge=0, le=100, description="stage 3: least confidence of the sync critic")
    max_offset: int = Field(3, ge=0, le=15, description="stage 3: frames of offset that are corrected")
    min_speech: float = Field(0.3, ge=0, le=1, description="stage 3: share of a segment with speech")
    camera: float = Field(0.01, gt=0, le=1, description="stage 4: motion of the background, widths a frame")
    objects: float = Field(0.022, gt=0, le=1, description="stage 4: motion of things in it, widths a frame")
    flicker: float = Field(3.0, gt=0, le=255, description="stage 4: unsteadiness of the light, grey levels of 255")
    splice: float = Field(0.1, gt=0, le=10, description="stage 4: leap of the face between frames, face heights")
    frozen_s: float = Field(0.2, gt=0, le=60, description="stage 4: longest stretch of equal frames, seconds")
    repeated: float = Field(0.3, gt=0, le=1, description="stage 4: share of frames that repeat the one before")
    sharpness: float = Field(0.02, ge=0, le=10, description="stage 4: least sharpness of the face")
    blocks: float = Field(0.6, gt=0, le=100, description="stage 4: block edges of heavy compression")
    max_qp: float = Field(40, gt=0, le=52, description="stage 4: H.264's quantiser of heavy compression; 52 = any")
    syncnet: str = Field("", description="SyncNet's weights (a .model or .safetensors file); empty = our own critic")
    syncnet_confidence: float = Field(3.0, ge=0, le=100, description="stage 3: least Sync-C where SyncNet judges")

    @field_validator("max_segment_s")
    @classmethod
    def _can_be_halved(cls, most: float, told: ValidationInfo) -> float:
        """A stretch a little longer than the longest segment is cut into two that are long enough."""
        least = told.data.get("min_segment_s", 0)
        if most < 2 * least:
            raise ValueError(f"must be at least twice min_segment_s, {2 * least:g}")
        return most


class Settings(Group):
    """All groups; `results` and `manifest` are given by `linker run`."""

    limits: LimitSettings = Field(default_factory=LimitSettings)
    audio: AudioSettings = Field(default_factory=AudioSettings)
    language: LanguageSettings = Field(default_factory=LanguageSettings)
    face: FaceSettings = Field(default_factory=FaceSettings)
    generate: GenerateSettings = Field(default_factory=GenerateSettings)
    background: BackgroundSettings = Field(default_factory=BackgroundSettings)
    upscale: UpscaleSettings = Field(default_factory=UpscaleSettings)
    finish: FinishSettings = Field(default_factory=FinishSettings)
    provenance: ProvenanceSettings = Field(default_factory=ProvenanceSettings)
    launch: LaunchSettings = Field(default_factory=LaunchSettings)
    train: TrainSettings = Field(default_factory=TrainSettings)
    curate: CurateSettings = Field(default_factory=CurateSettings)


def read_settings(values: dict[str, Any], where: str) -> Settings:
    """Check `values` (parsed YAML) against the declarations. Raises SettingsError naming the key and `where`."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_first_fault(error, where)) from None


def read_group(name: str, values: Any, where: str) -> Group:
    """One group of the settings by itself. Raises SettingsError naming the key and `where`."""
    kind = cast(type[Group], Settings.model_fields[name].annotation)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_first_fault(error, where, name)) from None


def weights_folder(settings: GenerateSettings) -> Path:
    """The checkpoint's folder."""
    return MINI_DIR if settings.weights == "mini" else Path(settings.weights)


def preset_of(settings: GenerateSettings, size: str, name: str) -> Preset:
    """The preset of a model's size, each of its choices replaced by the setting that names another."""
    chosen = PRESETS["base" if size == "base" else "mini"][name]
    return Preset(
        steps=settings.steps or chosen.steps,
        guidance_scale=settings.guidance_scale or chosen.guidance_scale,
        sampler=settings.sampler or chosen.sampler,
        decoder=settings.decoder or chosen.decoder,
    )


def token(group: Group) -> str:
    """One JSON token of a group, keys sorted: what rules carry in `params`: a changed setting reruns its step."""
    return json.dumps(group.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _first_fault(error: ValidationError, where: str, *group: str) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in (*group, *fault["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {key}: {fault['msg']}, found {fault.get('input')!r}{more}; config/README.md lists every setting"
