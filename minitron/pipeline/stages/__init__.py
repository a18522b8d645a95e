"""The work of each pipeline stage, one file a stage; the only place where the package's parts meet."""
