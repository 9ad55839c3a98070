"""The three settings as conversations: reasoning, tools, agentic; for training and evaluation."""
