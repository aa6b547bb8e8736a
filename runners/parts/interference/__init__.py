"""Parts of within-family interference: the sets that are compared, and words."""
