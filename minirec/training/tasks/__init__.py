"""What models learn, one file a loss."""
