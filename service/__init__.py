"""The online half: loads one snapshot and answers queries inside a latency budget."""
