"""The page of a run: what its folder holds, read, and laid out as the page's sections."""
