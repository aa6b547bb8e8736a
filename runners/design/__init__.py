"""What the experiments share: constructed sets and their constraints, specificity, effect rows, reports."""
