"""Published models, the authors' files, the catalogue. Imports everything but cli and pipelines."""
