"""Heads: hidden states to laws that can be guided, filtered and drawn from. Imports core and nn."""
