"""The ground: shapes, families, checkpoint files, slicing by axis, text. It knows no stage.

Modules are imported by their own names, since some need torch and the arithmetic ones must not load it.
"""
