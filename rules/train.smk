"""Train: a model in the paper's two stages (section 4.1), from data that this project draws and speaks, or from footage.

Inputs: none, or the shards of `train.shards` and the checkpoint of `train.start`. Outputs: training/{preset}/ (the
checkpoint that `generate.weights` takes), by way of videos, codec and speech encoder where none are given, encoded videos
and the two stages; where all begins from nothing, stage 2 has a last part, in which the speech encoder is trained along.
Every step keeps its state and goes on where it was killed.
"""


rule draw_videos:
    output:
        videos="training/videos/videos.json",
    log:
        "logs/draw_videos/draw_videos.log",
    benchmark:
        "benchmarks/draw_videos/draw_videos.jsonl"
    conda:
        "../environment.yml"
    threads: workflow.cores
    resources:
        mem_mb=lambda wildcards, threads: 2000 + 600 * threads,
        runtime=720,
    params:
        settings=training("videos", "data_seed", "stills"),
        form=DRAWN_FORM,
    message:
        "draw_videos"
    shell:
        "python -P -m linker.cli draw_videos --log {log:q} --videos {output.videos:q} --settings {params.settings:q}"
        " --processes {threads}"


rule train_codec:
    input:
        videos="training/videos/videos.json",
    output:
        codec="training/weights/codec/config.json",
    log:
        "logs/train_codec/train_codec.log",
    benchmark:
        "benchmarks/train_codec/train_codec.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    threads: launched_threads()
    params:
        settings=training("codec_steps"),
        form=CODEC_FORM,
    message:
        "train_codec"
    shell:
        "python -P -m linker.cli train_codec --log {log:q} --videos {input.videos:q} --codec {output.codec:q}"
        " --settings {params.settings:q}"


rule train_speech:
    output:
        speech="training/weights/speech/config.json",
    log:
        "logs/train_speech/train_speech.log",
    benchmark:
        "benchmarks/train_speech/train_speech.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    threads: launched_threads()
    params:
        settings=training("utterances", "speech_steps"),
        form=SPEECH_FORM,
    message:
        "train_speech"
    shell:
        "python -P -m linker.cli train_speech --log {log:q} --speech {output.speech:q} --settings {params.settings:q}"


rule encode_videos:
    input:
        videos="training/videos/videos.json",
        codec=part_config("codec"),
        speech=part_config("speech"),
    output:
        encoded="training/encoded/encoded.json",
    log:
        "logs/encode_videos/encode_videos.log",
    benchmark:
        "benchmarks/encode_videos/encode_videos.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    threads: launched_threads()
    params:
        form=ENCODED_FORM,
    message:
        "encode_videos"
    shell:
        "python -P -m linker.cli encode_videos --log {log:q} --videos {input.videos:q} --codec {input.codec:q}"
        " --speech {input.speech:q} --encoded {output.encoded:q}"


rule encode_footage:
    input:
        shards=training_shards,
        start=start_card,
    output:
        encoded="training/footage/encoded.json",
    log:
        "logs/encode_footage/encode_footage.log",
    benchmark:
        "benchmarks/encode_footage/encode_footage.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    threads: launched_threads()
    params:
        form=ENCODED_FORM,
    message:
        "encode_footage"
    shell:
        "python -P -m linker.cli encode_footage --log {log:q} --shards {input.shards:q} --start {input.start:q}"
        " --encoded {output.encoded:q}"


rule train_stage1:
    input:
        encoded=encoded_videos,
        codec=part_config("codec"),
        speech=part_config("speech"),
        start=start_card,
    output:
        stage1="training/stage1/lingualinker.json",
    log:
        "logs/train_stage1/train_stage1.log",
    benchmark:
        "benchmarks/train_stage1/train_stage1.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    threads: launched_threads()
    params:
        settings=training(*STAGE_1_SETTINGS),
    message:
        "train_stage1"
    shell:
        "python -P -m linker.cli train_stage1 --log {log:q} --encoded {input.encoded:q} --stage1 {output.stage1:q}"
        " --codec {input.codec:q} --speech {input.speech:q} --settings {params.settings:q} --start {input.start:q}"


rule train_stage2:
    input:
        encoded=encoded_videos,
        stage1="training/stage1/lingualinker.json",
        codec=part_config("codec"),
        speech=part_config("speech"),
    output:
        weights=f"{STAGE2_DIR}/lingualinker.json",
        record=f"{STAGE2_DIR}/record.json",
        curves=report(
            f"{STAGE2_DIR}/curves.png",
            caption="../workflow/report/curves.rst",
            category="Training",
        ),
    log:
        "logs/train_stage2/train_stage2.log",
    benchmark:
        "benchmarks/train_stage2/train_stage2.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    threads: launched_threads()
    params:
        settings=token(SETTINGS.train),
    message:
        "train_stage2"
    shell:
        "python -P -m linker.cli train_stage2 --log {log:q} --encoded {input.encoded:q} --stage1 {input.stage1:q}"
        " --codec {input.codec:q} --speech {input.speech:q} --weights {output.weights:q} --record {output.record:q}"
        " --curves {output.curves:q} --settings {params.settings:q}"


rule train_joint:
    input:
        stage2="training/stage2/lingualinker.json",
        before="training/stage2/record.json",
    output:
        weights=f"{JOINT_DIR}/lingualinker.json",
        record=f"{JOINT_DIR}/record.json",
        curves=report(
            f"{JOINT_DIR}/curves.png",
            caption="../workflow/report/curves.rst",
            category="Training",
        ),
    log:
        "logs/train_joint/train_joint.log",
    benchmark:
        "benchmarks/train_joint/train_joint.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    threads: launched_threads()
    params:
        settings=token(SETTINGS.train),
        form=f"{DRAWN_FORM} {ENCODED_FORM}",
    message:
        "train_joint"
    shell:
        "python -P -m linker.cli train_joint --log {log:q} --stage2 {input.stage2:q} --before {input.before:q}"
        " --weights {output.weights:q} --record {output.record:q} --curves {output.curves:q} --settings {params.settings:q}"


rule train_critic:
    output:
        critic="training/critic/critic.safetensors",
    log:
        "logs/train_critic/train_critic.log",
    benchmark:
        "benchmarks/train_critic/train_critic.jsonl"
    conda:
        "../environment.yml"
    threads: workflow.cores
    params:
        settings=training("critic_pieces", "critic_shards", "critic_steps"),
        form=CRITIC_FORM,
    message:
        "train_critic"
    shell:
        "python -P -m linker.cli train_critic --log {log:q} --critic {output.critic:q} --settings {params.settings:q}"
