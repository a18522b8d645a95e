"""The command line: the parser, options that commands share, terminal and JSON output; `commands` has a module each."""
