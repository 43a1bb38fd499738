"""Replay of workflows against a real vLLM. Empty so far: only the simulator exists."""
