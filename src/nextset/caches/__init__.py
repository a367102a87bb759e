"""Memory policies: what attention keeps of the past. Imports core and nn."""
