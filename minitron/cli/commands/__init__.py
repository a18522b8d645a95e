"""The commands, a module each, with `SUMMARY`, `add_arguments(parser)` and `run(args)`."""
