"""Parts of the decoder output: direct logit effect, and steering."""
