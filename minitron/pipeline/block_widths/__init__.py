"""FFN widths block by block: what each width costs each block is measured, and the cheapest at equal total taken."""
