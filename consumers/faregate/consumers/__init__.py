"""What reacts: consumers that turn events into decisions, and the relay that announces them."""
