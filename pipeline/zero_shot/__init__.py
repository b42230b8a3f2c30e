"""`guie zero-shot`: CLIP and SigLIP against class prompts."""
