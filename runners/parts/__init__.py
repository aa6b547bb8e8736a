"""What belongs to one experiment type, a folder each; a type that fits in its file has none."""
