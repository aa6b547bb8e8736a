"""Parts of the heatmap: its grid, cells, contrasts and words."""
