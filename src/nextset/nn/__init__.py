"""Layers and what they are computed with: transformer parts, convolutional autoencoder, attention kernel, losses. Imports core."""
