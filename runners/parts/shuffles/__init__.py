"""Parts of the shuffle null: its statistics, the test, words."""
