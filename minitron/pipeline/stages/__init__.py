"""The stages of the pipeline, one file each, with a function `run(context)`; stages do not import each other."""
