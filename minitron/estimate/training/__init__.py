"""Operations, hours and memory of training."""
