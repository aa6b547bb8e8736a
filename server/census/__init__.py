"""The census of a bundle: how it is taken block by block, stored as Parquet, and searched."""
