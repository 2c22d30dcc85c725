"""What training costs, counted before it begins: layers, work, memory. Free of torch."""
