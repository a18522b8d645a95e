"""Parts of models in plain numpy fp64, written from papers and modeling code and by the names of tensors in files."""
