"""Layers and what they are computed with: transformer parts, convolutional autoencoder, encoders of images, attention kernel, losses. Imports core."""
