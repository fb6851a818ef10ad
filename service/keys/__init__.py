"""API keys of callers: who may search and embed, how fast, and until when. Off unless a file of them is configured."""
