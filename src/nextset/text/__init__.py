"""Text encoders behind one packed interface. Imports core and nn. Empty until the first system reads text."""
