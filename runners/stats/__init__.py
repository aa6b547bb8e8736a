"""Estimators on plain arrays: intervals, paired effects, clustered group means, regression, curve shapes."""
