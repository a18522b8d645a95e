"""Generation speed: waves of requests through transformers or vLLM, several models in turn, medians and ratios."""
