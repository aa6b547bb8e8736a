"""Parts of the feature overview: units, weapons, bands of activation."""
