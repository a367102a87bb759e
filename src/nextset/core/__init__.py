"""Values and seams: plans, rows, noise, canvases, masks, configs, errors, files. Imports nothing of nextset but core."""
