"""What several plugins share. It declares nothing, so the registry takes it for no plugin."""
