"""Judges of pictures that need no download. Imports everything below systems. Empty until the first judge."""
