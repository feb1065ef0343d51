"""The Faust applications, one per stream: thin agents around the rules."""
