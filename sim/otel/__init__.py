"""OpenTelemetry spans of LLM applications: their forms, their dialects, and what waits for what."""
