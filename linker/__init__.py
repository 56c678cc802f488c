"""LinguaLinker: dub portraits in bulk. This package imports nothing at its root, so that the Snakefile stays light."""

__version__ = "0.1.0"
