"""Report: one line and one card for each row, failed ones too.

Inputs: whatever sidecars there are; none is declared, because a row without a video must be told as well.
Outputs: status.tsv, failed.csv (the rows to do again, itself a manifest), report/index.html. Runs end by writing them (the
Snakefile's handlers). `snakemake report` does so alone, and writes report/parts/: the page in parts that hold small copies of
their videos, as what is shown inside Snakemake's own report can reach no file beside it: `snakemake report --report`.
"""


rule report:
    output:
        status="status.tsv",
        failed="failed.csv",
        page="report/index.html",
        parts=report(
            directory("report/parts"),
            patterns=["{rows}.html"],
            caption="../workflow/report/page.rst",
            category="Deliverables",
            labels={"rows": "{rows}"},
        ),
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
        told=told_identity,
    message:
        "report"
    shell:
        "python -P -m linker.cli report --log {log:q} --results . --status {output.status:q} --page {output.page:q}"
        " --parts {output.parts:q} --manifest {params.manifest:q}"
