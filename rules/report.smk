"""Report: one line and one card for each row, failed ones too.

Inputs: whatever sidecars there are; none is declared, because a row without a video must be told as well.
Outputs: status.tsv, failed.csv (the rows to do again, itself a manifest), report/index.html. Runs end by writing them (the
Snakefile's handlers); `snakemake report` does so alone, and then `snakemake report --report` shows the page inside its own.
"""


rule report:
    output:
        status="status.tsv",
        failed="failed.csv",
        page=report("report/index.html", caption="../workflow/report/page.rst", category="Deliverables"),
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
