"""Text for a language model: tokenizer, prompts, fine-tuning tasks, batches of token rows."""
