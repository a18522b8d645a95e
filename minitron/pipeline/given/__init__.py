"""Students that a user gives, in place of those that a run cuts."""
