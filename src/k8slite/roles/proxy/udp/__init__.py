"""UDP through this process: sessions of clients, datagrams by the batch."""
