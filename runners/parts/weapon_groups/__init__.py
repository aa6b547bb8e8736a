"""Parts of the weapon groups: enrichment, its null, tables."""
