"""Importing the files of the SplatNLP project: a reader a format, a restartable writer, and a plan joining them."""
