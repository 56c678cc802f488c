"""LinguaLinker: dub portraits in bulk. One row of the manifest is one clip.

    snakemake --cores 2 --config manifest=jobs.csv results=results

Targets: `all` (every row's video), `report` (status.tsv and one page). `python3 -m linker run` does both, names
every fault before any job starts, and knows which rows are done.
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")

sys.path.insert(0, workflow.current_basedir.get_path_or_uri(secret_free=True))


configfile: workflow.current_basedir.join("config/config.yaml").get_path_or_uri(secret_free=True)


config["manifest"] = str(Path(workflow.workdir_init, config["manifest"]))


workdir: Path(workflow.workdir_init, config["results"])


include: "workflow/common.smk"
include: "rules/audio.smk"
include: "rules/face.smk"
include: "rules/generate.smk"
include: "rules/finish.smk"
include: "rules/report.smk"
include: "rules/train.smk"
include: "rules/curate.smk"


rule all:
    default_target: True
    input:
        wanted_files(),
    localrule: True


onsuccess:
    write_report()


onerror:
    write_report()
