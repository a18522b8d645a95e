"""Shape + budget -> ranked candidates: space, limits, solver, tournament, Pareto front. No torch."""
