"""Parts of the kit sweep: contrasts over kits, in the data and swapped."""
