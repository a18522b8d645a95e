"""GGUF files, which llama.cpp reads: what is written of a checkpoint, key by key and tensor by tensor."""
