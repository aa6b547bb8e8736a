"""The census: a summary of every feature of a bundle."""
