"""Face: the square crop the model sees, and where head, mouth and eyes are in it.

Inputs: the portraits of the manifest, each once for every face that rows choose in it.
Outputs: portraits/{portrait}/ face.png (512 x 512), crop.json, masks.npz, debug.png.
A portrait that cannot be used (no face, several, no image) leaves its refusal in crop.json; its rows fail at `collect`.
"""


rule crop_face:
    input:
        portrait=ancient(portrait_source),
    output:
        face="portraits/{portrait}/face.png",
        crop="portraits/{portrait}/crop.json",
    log:
        "logs/crop_face/{portrait}.log",
    benchmark:
        "benchmarks/crop_face/{portrait}.jsonl"
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        source=portrait_identity,
        choice=portrait_choice,
        settings=token(SETTINGS.face),
        limits=token(SETTINGS.limits),
    message:
        "crop_face {wildcards.portrait}"
    shell:
        "python -P -m linker.cli crop_face --log {log:q} --portrait {input.portrait:q} --face {output.face:q}"
        " --crop {output.crop:q} --choice={params.choice:q}"
        " --settings {params.settings:q} --limits {params.limits:q}"


rule extract_masks:
    input:
        face="portraits/{portrait}/face.png",
        crop="portraits/{portrait}/crop.json",
    output:
        masks="portraits/{portrait}/masks.npz",
        debug="portraits/{portrait}/debug.png",
    log:
        "logs/extract_masks/{portrait}.log",
    benchmark:
        "benchmarks/extract_masks/{portrait}.jsonl"
    conda:
        "../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        settings=token(SETTINGS.face),
    message:
        "extract_masks {wildcards.portrait}"
    shell:
        "python -P -m linker.cli extract_masks --log {log:q} --face {input.face:q} --crop {input.crop:q}"
        " --masks {output.masks:q} --debug {output.debug:q} --settings {params.settings:q}"
