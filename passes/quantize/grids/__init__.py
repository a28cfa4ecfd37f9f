"""The grids, a scheme or a few alike in each file; all are found here (`grid.schemes`)."""
