"""Reports for people: tables for a terminal, figures, the model card."""
