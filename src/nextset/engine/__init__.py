"""The one loop: look, advance, run; contexts, controllers, filters, guidance, beams. Imports core, nn, heads, caches."""
