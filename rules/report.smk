"""Report: one line and one card for each row, failed ones too.

Inputs: whatever sidecars there are; none is declared, because a row without a video must be told as well.
Outputs: status.tsv, report/index.html. Runs end by writing it (the Snakefile's handlers); `snakemake report` does so alone.
"""


rule report:
    output:
        status="status.tsv",
        page="report/index.html",
    log:
        "logs/report/report.log",
    benchmark:
        "benchmarks/report/report.jsonl"
    localrule: True
    conda:
        "../environment.yml"
    params:
        rows=rows_digest(),
        manifest=str(MANIFEST.path),
    message:
        "report"
    shell:
        "python -P -m linker.cli report --log {log:q} --results . --status {output.status:q} --page {output.page:q}"
        " --manifest {params.manifest:q}"
