"""The page of a run: what a section shows as data, and the one HTML file that is made of it."""
