#!/usr/bin/env bash
# Runs in the environment that Snakemake made from environment.yml: the pins of workflow/requirements/nodeps.txt.
set -euo pipefail
pip install --no-deps mediapipe==0.10.21 openai-whisper==20250625 silero-vad==6.2.3 spandrel==0.4.2
