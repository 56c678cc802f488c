"""Generate: the gated diffusion model, loaded once for all rows of a shard.

Inputs: the prepared portraits and audios of the shard's rows, and the weights.
Outputs: shards/{shard}/ledger.json, with each row's clip beside it under a key of its content; clips/{clip}/generated.mkv.
The ledger alone is declared, and kept while it is written again (`update`): a shard that runs again skips the rows that
are done. `collect` is told by its parameters and inputs what a row's frames depend on. Rows that were never generated wait
for the ledger; for rows that were, `python3 -m linker run` asks in a second pass, without that edge, so that one changed
row redoes that row's clip and not its whole shard's (plain `snakemake` finishes the shard's other rows again).
"""


rule list_shard:
    output:
        listing="shards/{shard}.json",
    log:
        "logs/list_shard/{shard}.log",
    benchmark:
        "benchmarks/list_shard/{shard}.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    params:
        digest=shard_digest,
        manifest=str(MANIFEST.path),
        settings=token(SETTINGS.generate),
    message:
        "list_shard {wildcards.shard}"
    shell:
        "python -P -m linker.cli list_shard --log {log:q} --manifest {params.manifest:q} --shard {wildcards.shard:q}"
        " --listing {output.listing:q} --settings {params.settings:q}"


rule generate:
    input:
        shard="shards/{shard}.json",
        prepared=shard_files,
        weights=weights_files(),
    output:
        ledger=update("shards/{shard}/ledger.json"),
    log:
        "logs/generate/{shard}.log",
    benchmark:
        "benchmarks/generate/{shard}.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    threads: launched_threads()
    params:
        settings=token(SETTINGS.generate),
    message:
        "generate {wildcards.shard}"
    shell:
        "python -P -m linker.cli generate --log {log:q} --shard {input.shard:q} --ledger {output.ledger:q}"
        " --settings {params.settings:q}"


rule collect:
    input:
        awaited=awaited_ledger,
        face=of_portrait("face.png"),
        masks=of_portrait("masks.npz"),
        driver=of_audio("driver.wav"),
        weights=weights_card(),
    output:
        generated="clips/{clip}/generated.mkv",
    log:
        "logs/collect/{clip}.log",
    benchmark:
        "benchmarks/collect/{clip}.jsonl"
    priority: 1
    localrule: True
    conda:
        "../environment.yml"
    params:
        generation=generation,
        ledger=row_ledger,
    message:
        "collect {wildcards.clip}"
    shell:
        "python -P -m linker.cli collect --log {log:q} --ledger {params.ledger:q} --clip {wildcards.clip:q}"
        " --generated {output.generated:q} --generation {params.generation:q}"
