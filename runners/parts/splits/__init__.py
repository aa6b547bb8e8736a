"""Parts of split-half: the metrics of a half, and their comparison."""
