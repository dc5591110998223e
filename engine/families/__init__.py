"""Base model families: facts, loading, noise, latents, text, prediction under control."""
