"""What a person looks at: tables for a terminal, figures, the model card."""
