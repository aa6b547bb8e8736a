"""Parts of pairwise and conditional interactions: candidates, contrasts, regression, words."""
