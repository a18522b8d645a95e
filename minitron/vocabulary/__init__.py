"""Which tokens a text uses, and a tokenizer that has those alone."""
