"""The one loop: look, advance, run; contexts, controllers, filters, guidance. Imports core, nn, heads, caches."""
