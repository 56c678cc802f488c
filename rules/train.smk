"""Train: the embedded mini model, from data that this project draws and speaks itself.

Inputs: none. Outputs: training/mini/ (the checkpoint that `generate.weights` takes), by way of videos, codec, speech
encoder, encoded videos and the paper's two stages. Every step keeps its state and goes on where it was killed.
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
    params:
        settings=token(SETTINGS.train),
    message:
        "draw_videos"
    shell:
        "python -P -m linker.cli draw_videos --log {log:q} --videos {output.videos:q} --settings {params.settings:q}"


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
        settings=token(SETTINGS.train),
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
        settings=token(SETTINGS.train),
    message:
        "train_speech"
    shell:
        "python -P -m linker.cli train_speech --log {log:q} --speech {output.speech:q} --settings {params.settings:q}"


rule encode_videos:
    input:
        videos="training/videos/videos.json",
        codec="training/weights/codec/config.json",
        speech="training/weights/speech/config.json",
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
    message:
        "encode_videos"
    shell:
        "python -P -m linker.cli encode_videos --log {log:q} --videos {input.videos:q} --codec {input.codec:q}"
        " --speech {input.speech:q} --encoded {output.encoded:q}"


rule train_stage1:
    input:
        encoded="training/encoded/encoded.json",
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
        settings=token(SETTINGS.train),
    message:
        "train_stage1"
    shell:
        "python -P -m linker.cli train_stage1 --log {log:q} --encoded {input.encoded:q} --stage1 {output.stage1:q}"
        " --settings {params.settings:q}"


rule train_stage2:
    input:
        encoded="training/encoded/encoded.json",
        stage1="training/stage1/lingualinker.json",
        codec="training/weights/codec/config.json",
        speech="training/weights/speech/config.json",
    output:
        weights="training/mini/lingualinker.json",
        record="training/mini/record.json",
        curves=report("training/mini/curves.png", caption="../workflow/report/curves.rst", category="Training"),
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
        settings=token(SETTINGS.train),
    message:
        "train_critic"
    shell:
        "python -P -m linker.cli train_critic --log {log:q} --critic {output.critic:q} --settings {params.settings:q}"
