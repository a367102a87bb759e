"""Tokenizers: images to codes and back, with their quantisers and training terms. Imports core and nn."""
