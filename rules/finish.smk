"""Finish: from the generated crop to the video a viewer gets.

Inputs: clips/{clip}/generated.mkv, the portrait's preparation, the portrait, the audio and the subtitles as they came.
Outputs: clips/{clip}/ stable.mkv, steadiness.json, upscaled.mkv, delivered.json; the row's video in videos/ and videos/{clip}.json
(provenance and checks); its master in masters/. A video that fails a check stays in draft/.
The viewer hears the row's own audio, not the 16 kHz copy that the model hears. Of a deliverable nothing is declared but a note,
written last, that it is there: a job that fails loses its declared outputs, and the last good video, with its sidecar, must
survive a failed rerun.
Upscaling by a network takes a GPU where there is one: one clip at a time (`resources` in the profile), beside the workers.
"""


rule stabilize_background:
    input:
        generated="clips/{clip}/generated.mkv",
        face=of_portrait("face.png"),
        masks=of_portrait("masks.npz"),
    output:
        stable="clips/{clip}/stable.mkv",
        steadiness="clips/{clip}/steadiness.json",
    log:
        "logs/stabilize_background/{clip}.log",
    benchmark:
        "benchmarks/stabilize_background/{clip}.jsonl"
    priority: 2
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=token(SETTINGS.background),
    message:
        "stabilize_background {wildcards.clip}"
    shell:
        "python -P -m linker.cli stabilize_background --log {log:q} --generated {input.generated:q}"
        " --face {input.face:q} --masks {input.masks:q} --stable {output.stable:q}"
        " --steadiness {output.steadiness:q} --settings {params.settings:q}"


rule upscale_video:
    input:
        stable="clips/{clip}/stable.mkv",
        crop=of_portrait("crop.json"),
        weights=upscaler_files(),
    output:
        upscaled="clips/{clip}/upscaled.mkv",
    log:
        "logs/upscale_video/{clip}.log",
    benchmark:
        "benchmarks/upscale_video/{clip}.jsonl"
    priority: 3
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=upscaler_gpus(),
    params:
        weights=[identity(path) for path in upscaler_files()],
        settings=token(SETTINGS.upscale),
        finish=token(SETTINGS.finish.geometry),
    message:
        "upscale_video {wildcards.clip}"
    shell:
        "python -P -m linker.cli upscale_video --log {log:q} --stable {input.stable:q} --crop {input.crop:q}"
        " --upscaled {output.upscaled:q} --settings {params.settings:q} --finish {params.finish:q}"


rule mux_audio:
    input:
        upscaled="clips/{clip}/upscaled.mkv",
        portrait=ancient(row_portrait),
        crop=of_portrait("crop.json"),
        masks=of_portrait("masks.npz"),
        audio=ancient(row_audio),
        driver=of_audio("driver.wav"),
        subtitles=ancient(row_subtitles),
        loudness=of_audio("loudness.json"),
        language=of_audio("language.json"),
        steadiness="clips/{clip}/steadiness.json",
        awaited=awaited_ledger,
    output:
        delivered="clips/{clip}/delivered.json",
    log:
        "logs/mux_audio/{clip}.log",
    benchmark:
        "benchmarks/mux_audio/{clip}.jsonl"
    priority: 4
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        row=delivery,
        subtitles=subtitles_identity,
        ledger=row_ledger,
        video=row_video,
        sidecar=row_sidecar,
        settings=finishing,
        background=token(SETTINGS.background),
        upscale=token(SETTINGS.upscale),
        provenance=marking,
        listening=token(SETTINGS.language),
    message:
        "mux_audio {wildcards.clip}"
    shell:
        "python -P -m linker.cli mux_audio --log {log:q} --upscaled {input.upscaled:q} --portrait {input.portrait:q}"
        " --crop {input.crop:q} --masks {input.masks:q} --audio {input.audio:q} --loudness {input.loudness:q}"
        " --driver {input.driver:q} --language {input.language:q} --subtitles {input.subtitles:q}"
        " --steadiness {input.steadiness:q}"
        " --ledger {params.ledger:q} --video {params.video:q} --sidecar {params.sidecar:q} --delivered {output.delivered:q} --row {params.row:q}"
        " --settings {params.settings:q} --background {params.background:q} --upscale {params.upscale:q}"
        " --provenance {params.provenance:q} --listening {params.listening:q}"
