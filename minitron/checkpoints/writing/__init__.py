"""Writing a checkpoint's shards: planned whole, then written at the speed of the disk, resumable."""
