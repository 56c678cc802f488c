"""Curate: from footage to clean, synchronous segments, in the paper's four stages (section 3.2).

Inputs: the videos of the configuration's `footage`, a folder or a list; never touched. Outputs: verdicts.jsonl, funnel.csv,
dataset/ (shards, segments.csv, sheets, card). One decode pass measures a video; judging reads only what was measured, so
that a moved threshold decodes nothing. A video that cannot be read gets a verdict, and the rest goes on.
"""


rule list_footage:
    output:
        listing="footage.json",
    log:
        "logs/list_footage/list_footage.log",
    benchmark:
        "benchmarks/list_footage/list_footage.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    params:
        footage=config.get("footage", ""),
        videos=footage_digest(),
    message:
        "list_footage"
    shell:
        "python -P -m linker.cli list_footage --log {log:q} --footage {params.footage:q} --listing {output.listing:q}"


rule measure_video:
    input:
        video=video_source,
    output:
        measures="footage/{video}/measures.npz",
        sound="footage/{video}/sound.wav",
        facts="footage/{video}/facts.json",
    log:
        "logs/measure_video/{video}.log",
    benchmark:
        "benchmarks/measure_video/{video}.jsonl"
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        settings=measuring(),
        form=MEASURED_FORM,
        source=video_identity,
        limits=token(SETTINGS.limits),
    message:
        "measure_video {wildcards.video}"
    shell:
        "python -P -m linker.cli measure_video --log {log:q} --video {input.video:q} --measures {output.measures:q}"
        " --sound {output.sound:q} --facts {output.facts:q} --settings {params.settings:q} --limits {params.limits:q}"


rule measure_syncnet:
    input:
        video=video_source,
        measures="footage/{video}/measures.npz",
        sound="footage/{video}/sound.wav",
        weights=syncnet_weights(),
    output:
        embeddings="footage/{video}/syncnet.npz",
    log:
        "logs/measure_syncnet/{video}.log",
    benchmark:
        "benchmarks/measure_syncnet/{video}.jsonl"
    conda:
        "../environment.yml"
    threads: 2
    resources:
        mem_mb=6000,
        runtime=240,
    message:
        "measure_syncnet {wildcards.video}"
    shell:
        "python -P -m linker.cli measure_syncnet --log {log:q} --video {input.video:q} --measures {input.measures:q}"
        " --sound {input.sound:q} --weights {input.weights:q} --embeddings {output.embeddings:q}"


rule hear_language:
    input:
        sound="footage/{video}/sound.wav",
        facts="footage/{video}/facts.json",
    output:
        language="footage/{video}/language.json",
    log:
        "logs/hear_language/{video}.log",
    benchmark:
        "benchmarks/hear_language/{video}.jsonl"
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        settings=token(SETTINGS.language),
    message:
        "hear_language {wildcards.video}"
    shell:
        "python -P -m linker.cli hear_language --log {log:q} --sound {input.sound:q} --facts {input.facts:q}"
        " --language {output.language:q} --settings {params.settings:q}"


rule judge_video:
    input:
        embeddings=syncnet_embeddings,
        measures="footage/{video}/measures.npz",
        sound="footage/{video}/sound.wav",
        facts="footage/{video}/facts.json",
        critic=str(CRITIC_DIR / "critic.safetensors"),
    output:
        verdicts="footage/{video}/verdicts.json",
        looks="footage/{video}/looks.npz",
    log:
        "logs/judge_video/{video}.log",
    benchmark:
        "benchmarks/judge_video/{video}.jsonl"
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=token(SETTINGS.curate),
        form=3,  # of judging: what an older release judged is judged again
    message:
        "judge_video {wildcards.video}"
    shell:
        "python -P -m linker.cli judge_video --log {log:q} --video {wildcards.video:q} --measures {input.measures:q}"
        " --sound {input.sound:q} --facts {input.facts:q} --critic {input.critic:q} --verdicts {output.verdicts:q}"
        " --looks {output.looks:q} --settings {params.settings:q}"
        " --embeddings {input.embeddings:q}"


rule cut_segments:
    input:
        video=video_source,
        verdicts="footage/{video}/verdicts.json",
        measures="footage/{video}/measures.npz",
        sound="footage/{video}/sound.wav",
    output:
        segments="footage/{video}/segments.json",
    log:
        "logs/cut_segments/{video}.log",
    benchmark:
        "benchmarks/cut_segments/{video}.jsonl"
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=240,
    message:
        "cut_segments {wildcards.video}"
    shell:
        "python -P -m linker.cli cut_segments --log {log:q} --video {input.video:q} --verdicts {input.verdicts:q}"
        " --measures {input.measures:q} --sound {input.sound:q} --segments {output.segments:q}"


rule funnel:
    input:
        listing="footage.json",
        verdicts=of_videos("verdicts.json"),
        looks=of_videos("looks.npz"),
        languages=heard_languages(),
        segments=of_videos("segments.json"),
    output:
        verdicts="verdicts.jsonl",
        table="funnel.csv",
        dataset="dataset/README.md",
    log:
        "logs/funnel/funnel.log",
    benchmark:
        "benchmarks/funnel/funnel.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    params:
        settings=token(SETTINGS.curate),
        hearing=token(SETTINGS.language),
    message:
        "funnel"
    shell:
        "python -P -m linker.cli funnel --log {log:q} --listing {input.listing:q} --lines {output.verdicts:q}"
        " --table {output.table:q} --dataset {output.dataset:q} --settings {params.settings:q}"
        " --hearing {params.hearing:q}"


rule measure_check:
    output:
        measured="curation_check/share{share}.json",
    log:
        "logs/measure_check/share{share}.log",
    benchmark:
        "benchmarks/measure_check/share{share}.jsonl"
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        videos=CHECK_VIDEOS,
        shares=CHECK_SHARES,
        form=MEASURED_FORM,
    message:
        "measure_check {wildcards.share}"
    shell:
        "python -P -m linker.cli measure_check --log {log:q} --measured {output.measured:q} --share {wildcards.share:q}"
        " --shares {params.shares:q} --count {params.videos:q}"


rule check_curation:
    input:
        measured=expand("curation_check/share{share}.json", share=range(CHECK_SHARES)),
        critic=str(CRITIC_DIR / "critic.safetensors"),
    output:
        confusion="curation_check/confusion.csv",
    log:
        "logs/check_curation/check_curation.log",
    benchmark:
        "benchmarks/check_curation/check_curation.jsonl"
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        videos=CHECK_VIDEOS,
        settings=token(SETTINGS.curate),
    message:
        "check_curation"
    shell:
        "python -P -m linker.cli check_curation --log {log:q} --measured {input.measured:q} --critic {input.critic:q}"
        " --confusion {output.confusion:q} --count {params.videos:q} --settings {params.settings:q}"
