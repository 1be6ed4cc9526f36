"""What the tests share: tiny models, repositories of them, servers as processes, and clients."""
