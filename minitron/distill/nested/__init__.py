"""Training nested students together: one set of weights, of which each smaller student is a slice."""
