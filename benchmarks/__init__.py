"""What Rota can do on this machine, measured. No tests: ``make bench`` prints figures, and judges none of them."""
