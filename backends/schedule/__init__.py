"""What every backend shares: buffers and views, steps and records, the arena and its proof."""
