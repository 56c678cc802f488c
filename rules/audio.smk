"""Audio: what the model hears, and in which language.

Inputs: the audio files of the manifest, each once however many clips use it.
Outputs: audio/{audio}/ driver.wav (16 kHz mono), loudness.json, language.json.
Media may come with any date, even one that is still to come: their size and date are parameters, which notice a change.
A file that cannot be used (silent, too short, broken) leaves its refusal in loudness.json; its rows fail at `collect`.
"""


rule normalize_audio:
    input:
        audio=ancient(audio_source),
    output:
        driver="audio/{audio}/driver.wav",
        loudness="audio/{audio}/loudness.json",
    log:
        "logs/normalize_audio/{audio}.log",
    benchmark:
        "benchmarks/normalize_audio/{audio}.jsonl"
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        source=audio_identity,
        settings=token(SETTINGS.audio),
        limits=token(SETTINGS.limits),
    message:
        "normalize_audio {wildcards.audio}"
    shell:
        "python -P -m linker.cli normalize_audio --log {log:q} --audio {input.audio:q}"
        " --driver {output.driver:q} --loudness {output.loudness:q}"
        " --settings {params.settings:q} --limits {params.limits:q}"


rule detect_language:
    input:
        driver="audio/{audio}/driver.wav",
        loudness="audio/{audio}/loudness.json",
    output:
        language="audio/{audio}/language.json",
    log:
        "logs/detect_language/{audio}.log",
    benchmark:
        "benchmarks/detect_language/{audio}.jsonl"
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        settings=token(SETTINGS.language),
    message:
        "detect_language {wildcards.audio}"
    shell:
        "python -P -m linker.cli detect_language --log {log:q} --driver {input.driver:q} --loudness {input.loudness:q}"
        " --language {output.language:q} --settings {params.settings:q}"
