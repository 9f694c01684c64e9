"""From messages to sums: formats, transport, folding, snapshots."""
