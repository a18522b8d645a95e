"""Closed-form repair: the pruned model's projections refitted to the teacher's outputs."""
