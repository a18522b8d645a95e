"""What distillation minimises, from hidden states and heads."""
