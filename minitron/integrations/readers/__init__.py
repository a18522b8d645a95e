"""What serving readers take of a checkpoint's `config.json`: one declaration a reader, and the check against it."""
