"""One folder a system: what it is, and nothing else. Imports everything but hub, cli and pipelines."""
