"""Laws that pruning must keep to, whatever the family: on tiny random models, in fp64."""
