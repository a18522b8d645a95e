"""Other projects' interfaces."""
