"""The command line: the parser, options that commands share, and the terminal or JSON output; `commands` has a module each."""
