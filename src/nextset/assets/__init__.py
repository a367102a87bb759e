"""Packaged checkpoints and the catalogue's records: data, no code."""
