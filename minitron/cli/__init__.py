"""The command line: one module per command, and the terminal or JSON output that they share."""
